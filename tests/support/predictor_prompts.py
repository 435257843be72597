"""Prompts on the photo chelsea, 451x300. data/predictor.npz holds the reference SamPredictor's results for them."""

import numpy as np

POINT, BOX = np.array([[220, 140]]), np.array([99, 54, 351, 258])
LOGITS = np.fromfunction(lambda _, y, x: 8 - np.hypot(x - 125, y - 90) / 5, (1, 256, 256))  # mask prompt: a disc

# Name of the prompt -> arguments of `SamPredictor.predict`.
SINGLE = {
    "point": {"point_coords": POINT, "point_labels": np.array([1])},
    "two points": {"point_coords": np.array([[220, 140], [100, 100]]), "point_labels": np.array([1, 0])},
    "box": {"box": BOX},
    "box in a batch of one": {"box": BOX[None]},
    "box and point": {"point_coords": POINT, "point_labels": np.array([0]), "box": BOX},
    "one mask": {"point_coords": POINT, "point_labels": np.array([1]), "multimask_output": False},
    "mask": {"mask_input": LOGITS},
    "mask and point": {"point_coords": POINT, "point_labels": np.array([1]), "mask_input": LOGITS},
    "nothing": {},
    "no points": {"point_coords": np.zeros((0, 2)), "point_labels": np.zeros(0)},
    "no points and a box": {"point_coords": np.zeros((0, 2)), "point_labels": np.zeros(0), "box": BOX},
    "padding": {"point_coords": np.array([[220, 140], [0, 0]]), "point_labels": np.array([1, -1])},
    "padding and a box": {"point_coords": np.array([[0, 0]]), "point_labels": np.array([-1]), "box": BOX},
    "outside": {"point_coords": np.array([[-50, 1000.5]]), "point_labels": np.array([1])},
    "box outside": {"box": np.array([-99, -54, 900, 900])},
    "box upside down": {"box": BOX[[2, 3, 0, 1]]},
}

POINTS, LABELS = (
    np.array([[[100, 80], [300, 200]], [[500, 400], [0, 0]], [[700, 60], [-20, 90]]]),
    [[1, 0], [1, -1], [1, 1]],
)
BOXES = np.array([[99, 54, 351, 258], [9, 5, 135, 125], [200, 100, 400, 300]])
MASKS = np.stack([LOGITS, -LOGITS, LOGITS[:, ::-1]])

# Name of the prompt -> arguments of `SamPredictor.predict_torch`, in pixels of the 1024x1024 canvas.
BATCHED = {
    "boxes": {"boxes": BOXES, "multimask_output": False},
    "points": {"point_coords": POINTS, "point_labels": np.array(LABELS)},
    "points and boxes": {"point_coords": POINTS, "point_labels": np.array(LABELS), "boxes": BOXES},
    "points and masks": {"point_coords": POINTS, "point_labels": np.array(LABELS), "mask_input": MASKS},
    "points and a mask for all": {"point_coords": POINTS, "point_labels": np.array(LABELS), "mask_input": MASKS[:1]},
    "masks": {"mask_input": MASKS},
}
