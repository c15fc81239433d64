"""The dimension key: what each letter in a shape annotation or a name's suffix stands for.

`Float[Tensor, "B L D"]` and a tensor named `hidden_BLD` both read as "batch, length, width". What
is not built from these letters is a number, an ellipsis, or the sum of a letter and a number.
"""

LETTERS = {
    "B": "sequences in a batch",
    "C": "classes",
    "D": "width of a vector",
    "H": "attention heads",
    "K": "hidden states (the embedding output and every layer), or the best K of a ranking",
    "L": "length of a sequence, padding included",
    "M": "masked or next-item positions: those with a target",
    "N": "rows of a catalogue, a table or an index",
    "P": "clipped distances of NEZHA, 2 * max_relative_position + 1",
    "Q": "queries of a search, targets to rank, or positions whose states are asked for",
    "T": "tokens or events, all sequences end to end",
    "U": "users",
    "V": "vocabulary rows, special tokens included",
    "W": "width of one attention head",
}
