"""The training curve, from what the trainer has logged and from its checkpoints."""

from idbert.training.curve import curve_of, curve_so_far


def test_a_curve_is_read_from_what_the_trainer_has_logged():
    logged = [
        {"epoch": 1.0, "step": 5, "loss": 2.0, "learning_rate": 0.1, "grad_norm": 1.0},
        {"epoch": 1.0, "step": 5, "eval_loss": 3.0, "eval_ndcg@10": 0.5},
        {"epoch": 2.0, "step": 10, "loss": 1.0},
        {"epoch": 1.0, "step": 5, "eval_ndcg@10": 0.7},
        {"epoch": 2.0, "step": 10, "train_runtime": 9.0},
    ]
    assert curve_of(logged) == [
        {"epoch": 1.0, "step": 5, "loss": 2.0, "learning_rate": 0.1, "validation_loss": 3.0}
        | {"ndcg@10": 0.5},
        {"epoch": 2.0, "step": 10, "loss": 1.0},
    ]


def test_a_training_without_a_checkpoint_has_no_curve_yet(tmp_path):
    assert curve_so_far(tmp_path / "checkpoints") == []
