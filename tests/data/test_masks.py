"""Masks as COCO files hold them: polygons, and run lengths in both forms."""

import numpy as np
import pytest
from pycocotools import mask as mask_util

from mutualnet_det.data.masks import decoded, run_lengths

HEIGHT, WIDTH = 20, 30
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[2:12, 4:9] = MASK[8:16, 6:20] = True

# COCO counts from the top down, column by column, and begins with what is not of the mask.
edges = np.flatnonzero(np.diff(MASK.T.ravel(), prepend=False, append=True))
counts = np.diff(edges, prepend=0).tolist()

FORMS = {
    "polygons": [[4, 2, 9, 2, 9, 12, 4, 12], [6, 8, 20, 8, 20, 16, 6, 16]],
    "counts": {"size": [HEIGHT, WIDTH], "counts": counts},
    "compressed": mask_util.encode(np.asfortranarray(MASK.astype(np.uint8))),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_the_mask(form):
    mask = decoded(FORMS[form], HEIGHT, WIDTH)
    assert mask.dtype == bool and np.array_equal(mask, MASK)
    assert mask_util.area(run_lengths(FORMS[form], HEIGHT, WIDTH)) == MASK.sum()
