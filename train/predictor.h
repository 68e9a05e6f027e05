/* SAM's predictor: an image is encoded once, then any number of prompts ask for masks.
 *
 * Used by `retort eval` and `retort segment`. The encoder is one graph; the decoder has a graph for
 * each bucket of token counts (8, 16, 32 or 64) and for each with mask prompts, built when the
 * first prompt needs it. A prompt is padded with empty slots to its bucket, a group of prompts with
 * empty prompts to `prompts_at_once`; neither changes a result by more than rounding. All graphs
 * read the same store.
 *
 * source  segment_anything's SamPredictor: order of tokens, coordinates, resizing
 */
#ifndef RETORT_TRAIN_PREDICTOR_H
#define RETORT_TRAIN_PREDICTOR_H

#include "data/image.h"
#include "train/recipe.h"

typedef struct Predictor Predictor;

enum {
    PREDICTOR_CANDIDATES = 3,  /* of the multi-mask output */
    PREDICTOR_MAX_TOKENS = 59, /* of a prompt: its points, one more without a box, two for a box */
};

/* One prompt set: points, a box, the logits of an earlier mask, in any combination. */
typedef struct Prompt {
    int64_t n_points;
    const double *points;    /* (n_points,2) x, y in px of the image */
    const int32_t *labels;   /* (n_points) 1 foreground, 0 background */
    const double *box;       /* (4) x0, y0, x1, y1 in px of the image, or NULL */
    const float *mask_input; /* (lowres,lowres) logits, or NULL */
} Prompt;

/* predictor_create: for a model whose store is allocated and holds its weights; all must outlive
 * the predictor.
 * bn      BN_EVAL: the store of a run, whose weights may change between images; BN_FOLDED: a frozen
 *         store of this precision
 * errors  those of step_build and exec_create */
Status predictor_create(const Model *model, Store *store, Backend *backend, BnMode bn,
                        DType precision, int64_t prompts_at_once, Predictor **out);
void predictor_destroy(Predictor *predictor);

/* predictor_open: the same from options: opens the recipe (closed by the caller, after the
 * predictor), loads the weights into a frozen store and prints the load line.
 * errors  those of recipe_open, weights_load and predictor_create */
Status predictor_open(const Options *options, const char *weights_path, int64_t prompts_at_once,
                      Recipe *recipe, Predictor **out);

/* predictor_set_image: encodes the image that `reader` has read at full size; all prompts and masks
 * below are of it. errors  E_MEMORY, E_DEVICE */
Status predictor_set_image(Predictor *predictor, ImageReader *reader);
ImageSize predictor_image_size(const Predictor *predictor);
int64_t predictor_lowres(const Predictor *predictor); /* side of the logits, px */
/* predictor_embedding: of the present image, (grid,grid,D) as f32; valid until the next image. */
const float *predictor_embedding(const Predictor *predictor);

/* predictor_predict: masks of n prompts.
 * multimask  true: C = 3 candidates a prompt, false: C = 1, the single-mask output
 * shapes     logits (n,C,lowres,lowres)   iou (n,C), as predicted: not clamped, not sorted
 * errors     E_CONFIG if a prompt has more than PREDICTOR_MAX_TOKENS; E_MEMORY, E_DEVICE */
Status predictor_predict(Predictor *predictor, int64_t n, const Prompt *prompts, bool multimask,
                         float *logits, float *iou);

/* predictor_most_confident: which of n candidates has the highest predicted IoU, the first of
 * equals.
 */
int64_t predictor_most_confident(const float *iou, int64_t n);

/* predictor_mask: the mask of one candidate at the image's size.
 * shapes  logits (lowres,lowres)   mask (height,width), 0 or 1 */
void predictor_mask(Predictor *predictor, const float *logits, uint8_t *mask);

#endif
