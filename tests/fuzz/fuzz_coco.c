/* COCO and LVIS instance files, with the masks of every image. */
#include "data/coco.h"
#include "tests/fuzz/fuzz.h"

enum { MAX_PX = 1 << 22 }; /* of an image: outlines of larger ones are walked for seconds */

void fuzz_coco(const uint8_t *bytes, size_t n_bytes)
{
    Coco *coco;
    CocoScratch scratch = {0};
    Annotations annotations = {0};
    if (coco_open(fuzz_file(bytes, n_bytes), "images", &coco) != OK) return;
    for (int64_t i = 0; i < coco_size(coco); i++)
        if (coco_image_px(coco, i) <= MAX_PX)
            (void)coco_annotations(coco, i, &scratch, &annotations);
    annotations_free(&annotations);
    coco_scratch_free(&scratch);
    coco_close(coco);
}
