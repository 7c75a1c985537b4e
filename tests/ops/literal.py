"""The context perceive layer with patches built by hand, in numpy."""

import numpy as np


def patches(image, size, stride, before):
    """Zero-padded windows in row-major order, one flat row for each."""
    height, width, _ = image.shape
    padded = np.pad(image, ((before, size), (before, size), (0, 0)))
    return np.stack(
        [
            padded[i : i + size, j : j + size].ravel()
            for i in range(0, height, stride)
            for j in range(0, width, stride)
        ]
    )


def diagonal_sum(scores):
    padded = np.pad(scores, 1)
    n, m = scores.shape
    return sum(padded[t : t + n, t : t + m] for t in range(3))


def literal(features, neighbor, mask, neighbor_mask, options):
    """Section 3.2 step by step, one image, in the dtype of its arguments."""
    height, width, channels = features.shape
    rows, columns = height // 2, width // 2
    pool = lambda m: m.reshape(rows, 2, columns, 2).max((1, 3))[..., None]
    cells = pool(mask)
    if not (options.mask_foreground or options.exclude_masked_keys):
        cells = mask[::2, ::2]
    free = lambda m: patches(m, 3, 1, 1).max(1) == 0
    fore = back = features[::2, ::2]
    values = features
    if options.mask_foreground:
        fore, back, values = fore * cells, back * (1 - cells), features * (1 - mask)
    sources = [(back, values, free(cells))]
    if options.use_neighbor:
        damage = np.zeros_like(mask) if neighbor_mask is None else neighbor_mask
        sampled = neighbor[::2, ::2] * (1 - pool(damage))
        sources.append((sampled, neighbor * (1 - damage), free(pool(damage))))

    queries = patches(fore, 3, 1, 1)
    norm = lambda p: np.maximum(np.sqrt((p * p).sum(1)), options.eps)
    by_column = np.arange(rows * columns).reshape(rows, columns).T.ravel()
    back_to_row = np.argsort(by_column)
    scores = []
    for sampled, _, _ in sources:
        keys = patches(sampled, 3, 1, 1)
        s = queries @ keys.T / norm(keys)
        if options.normalize_query:
            s = s / norm(queries)[:, None]
        if options.fuse:
            s = diagonal_sum(s)
            s = diagonal_sum(s[np.ix_(by_column, by_column)])
            s = s[np.ix_(back_to_row, back_to_row)]
        scores.append(s)
    scores = np.concatenate(scores, 1)
    valid = np.concatenate([v for _, _, v in sources])
    logits = options.softmax_scale * scores
    if options.exclude_masked_keys:
        weights = np.zeros_like(logits)
        if valid.any():
            e = np.exp(logits[:, valid] - logits[:, valid].max(1, keepdims=True))
            weights[:, valid] = e / e.sum(1, keepdims=True)
    else:
        logits = logits * valid
        e = np.exp(logits - logits.max(1, keepdims=True))
        weights = e / e.sum(1, keepdims=True) * valid
    blocks = weights @ np.concatenate([patches(v, 4, 2, 1) for _, v, _ in sources])
    pasted = np.zeros((height + 2, width + 2, channels), features.dtype)
    for block, (i, j) in zip(blocks, np.ndindex(rows, columns), strict=True):
        pasted[2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += block.reshape(4, 4, channels)
    output = pasted[1:-1, 1:-1] / 4
    if options.composite:
        output = mask * output + (1 - mask) * features
    return output, weights, scores
