/* The simulated user of the point protocol: clicks where the prediction is most wrong.
 *
 * The next click goes to the middle of the largest error: the pixel deepest inside the missing
 * part (a positive click) or inside the superfluous part (a negative one), whichever is deeper.
 * Called by `retort eval`.
 *
 * source  the clicker of EfficientViT-SAM's evaluation, after the interactive segmentation of RITM
 */
#ifndef RETORT_DATA_CLICKER_H
#define RETORT_DATA_CLICKER_H

#include <stdbool.h>
#include <stdint.h>

#include "data/distance.h"
#include "data/resize.h"

typedef struct Clicker { /* scratch of one thread; zero-initialise before the first use */
    DistanceScratch distance;
    Buffer wrong;   /* the missing or the superfluous pixels */
    Buffer squared; /* their squared distances */
} Clicker;

void clicker_free(Clicker *clicker);

typedef struct Click {
    int64_t x, y; /* px */
    bool positive;
    int64_t missing, superfluous; /* squared distance of the deepest pixel of either kind, px^2 */
} Click;

/* clicker_next: the click that follows `n` earlier ones. Pixels already clicked are not chosen
 * again. Equal depths give a negative click; of equally deep pixels the first in row-major order is
 * taken; without an error left, it is a negative click at (0,0).
 * shapes  truth, prediction (size.height, size.width), nonzero = foreground
 * errors  E_MEMORY */
Status clicker_next(Clicker *clicker, const uint8_t *truth, const uint8_t *prediction,
                    ImageSize size, int64_t n, const Click *earlier, Click *out);

#endif
