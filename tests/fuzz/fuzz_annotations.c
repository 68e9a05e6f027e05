/* SA-1B's annotation files, and what is done with masks that were read. */
#include <assert.h>

#include "data/annotations.h"
#include "tests/fuzz/fuzz.h"

void fuzz_annotations(const uint8_t *bytes, size_t n_bytes)
{
    Annotations annotations = {0};
    MaskFilter filter = {.max_area_fraction = 0.9, .min_area_px = 1, .no_crowds = true};
    if (annotations_parse("input", bytes, n_bytes, &annotations) == OK) {
        annotations_filter(&filter, &annotations);
        for (int64_t i = 0; i < annotations.n_items; i++) {
            int64_t box[4];
            rle_bbox(&annotations.items[i].mask, box);
            assert(box[0] + box[2] <= annotations.width && box[1] + box[3] <= annotations.height);
        }
    }
    annotations_free(&annotations);
}
