/* An image that a model is judged on: its pixels, its true masks, and room for a predicted one.
 *
 * Used by `retort eval` and by validation during training, so that both read the same things in the
 * same way: full size, no mask left out by size or score.
 */
#ifndef RETORT_TRAIN_JUDGED_H
#define RETORT_TRAIN_JUDGED_H

#include "data/source.h"
#include "train/predictor.h"

typedef struct JudgedImage { /* zero-initialise before judged_open */
    char name[ROOT_NAME_BYTES];
    RootReader file;
    ImageReader reader;
    Annotations annotations;
    ImageSize size;
    Buffer truth, prediction; /* (height,width) masks, 0 or 1 */
} JudgedImage;

Status judged_open(JudgedImage *image); /* errors  E_MEMORY */
void judged_close(JudgedImage *image);

/* judged_open_source: the samples of these roots, each with masks. limit: the first ones; 0: all
 * errors  those of source_open; E_CONFIG naming the option if there is no root */
Status judged_open_source(const OptionList *roots, const char *option, int64_t limit, Source **out);

/* judged_read: the image of this index and its masks; the predictor is given the image.
 * errors  E_FILE, E_FORMAT naming the file and what is wrong; E_MEMORY, E_DEVICE */
Status judged_read(JudgedImage *image, const Source *source, int64_t index, Predictor *predictor);

/* judged_box: the corners x0, y0, x1, y1 of the annotation's box, px. */
void judged_box(const Annotation *item, double box[4]);

#endif
