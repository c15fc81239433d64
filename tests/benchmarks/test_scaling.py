"""The table of several processes has ratios and the largest difference of a loss."""

from benchmarks.scaling import table


def test_ratios_are_to_a_librarys_first_form_and_losses_to_the_first_of_all() -> None:
    measured = {
        "idbert; 1 process": [
            {"interactions_per_s": 100.0, "losses": [2.0, 1.0], "foreign": 0.0},
            {"interactions_per_s": 300.0, "losses": [2.0, 1.0], "foreign": 0.0},
        ],
        "idbert; 2 processes": [
            {"interactions_per_s": 500.0, "losses": [2.0, 1.0], "foreign": 0.0},
            {"interactions_per_s": 9.0, "losses": [2.25, 1.0], "foreign": 0.5},
        ],
        "RePlay; 1 thread": [{"interactions_per_s": 10.0, "is_quiet": True}],
        "RePlay; 2 threads": [{"interactions_per_s": 15.0, "is_quiet": True}],
    }
    assert table(measured, {"hf; 1 thread": "failed: x"}).splitlines()[2:] == [
        "| idbert; 1 process | 200 [100, 300] | 1.00 | 0.0e+00 | 0% |",
        "| idbert; 2 processes | 500 | 2.50 | 2.5e-01 | 50% |",
        "| RePlay; 1 thread | 10 | 1.00 |  |  |",
        "| RePlay; 2 threads | 15 | 1.50 |  |  |",
        "| hf; 1 thread: failed: x |  |  |  |  |",
    ]
