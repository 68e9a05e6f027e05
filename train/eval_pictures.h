/* Pictures of what `retort eval` scores: one per image and kind of prompt, with all masks of the
 * image.
 *
 * Of each mask: the prediction, tinted and outlined in a colour of its own; the true outline in
 * white; the prompt on top. Small images are enlarged, so that lines stay thin beside objects.
 * Written as FOLDER/IMAGE_KIND.png, where `retort report` finds them if FOLDER is RUN/pictures.
 */
#ifndef RETORT_TRAIN_EVAL_PICTURES_H
#define RETORT_TRAIN_EVAL_PICTURES_H

#include "data/image.h"
#include "train/predictor.h"

typedef struct EvalPictures EvalPictures;

/* eval_pictures_open: n_images: drawn, the first ones; n_kinds: of prompts.
 * errors  E_FILE */
Status eval_pictures_open(const char *folder, int64_t n_images, int n_kinds, EvalPictures **out);
void eval_pictures_close(EvalPictures *pictures);

/* eval_pictures_begin: the image that `reader` read last, at full size. Until eval_pictures_end, or
 * if all are drawn, nothing is to be drawn: eval_pictures_wanted says so. */
void eval_pictures_begin(EvalPictures *pictures, const ImageReader *reader);
bool eval_pictures_wanted(const EvalPictures *pictures);

/* eval_pictures_add: mask `number` of the image, predicted from a prompt of kind `kind`.
 * shapes  truth, prediction (height, width) of the image, nonzero = foreground
 * errors  E_MEMORY */
Status eval_pictures_add(EvalPictures *pictures, int kind, int64_t number, const Prompt *prompt,
                         const uint8_t *truth, const uint8_t *prediction);

/* eval_pictures_end: writes what was drawn. image_path: of which files are named after; kinds: the
 * names of the kinds. errors  E_FILE */
Status eval_pictures_end(EvalPictures *pictures, const char *image_path, const char *const *kinds);

#endif
