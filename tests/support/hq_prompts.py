"""Prompts on chelsea.png for the golden outputs of Light HQ-SAM, by the argument names of `Embedding.segment`."""

PROMPTS = {
    "point": {"points": [[220, 140]], "labels": [1]},
    "box": {"box": [60, 20, 400, 290]},
    # More tokens than the low-rank form of the decoder takes.
    "ten points": {
        "points": [
            [220, 140],
            [100, 60],
            [300, 200],
            [30, 250],
            [200, 30],
            [120, 120],
            [90, 90],
            [50, 60],
            [20, 20],
            [350, 250],
        ],
        "labels": [1, 0, 1, 1, 0, 1, 0, 1, 1, 0],
    },
}
