"""The grids behind the golden numbers of FlowInpaint's specification 5.7, float64."""

import numpy as np

_Y, _X = np.mgrid[:16, :16]
A = (((7 * _Y + 3 * _X) % 11) / 5 - 1).reshape(1, 16, 16, 1)
B = (((5 * _Y + 2 * _X) % 13) / 6 - 1).reshape(1, 16, 16, 1)
M = np.zeros((1, 16, 16, 1))
M[:, 4:10, 5:12] = 1  # 42 pixels
