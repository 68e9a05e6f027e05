/* The cache of teacher embeddings as a recipe sees it: what `teach` writes into it, and whether it
 * is what a distillation needs. Files and reading are in data/embedding_cache.h. */
#ifndef RETORT_TRAIN_EMBEDDINGS_H
#define RETORT_TRAIN_EMBEDDINGS_H

#include "data/embedding_cache.h"
#include "train/recipe.h"

/* embeddings_describe: what recipe->teacher would write under these options, computing in
 * `precision`. errors  E_FILE if teacher.weights cannot be read for its sha256 */
Status embeddings_describe(const Options *options, const Recipe *recipe, DType precision,
                           EmbeddingInfo *out);

/* embeddings_open: the cache teacher.embeddings for a distillation on `source`. It may lack images
 * that cannot be read, up to data.max_bad_fraction of them: teach leaves them out, and the loader
 * replaces them.
 * errors  those of embedding_cache_open; E_CONFIG in one line saying what is not as it must be: the
 *         teacher (if its model or weights are given, too), the shape of an embedding, how images
 *         were prepared, flips, or an image that is not in it */
Status embeddings_open(const Options *options, const Recipe *recipe, const Source *source,
                       EmbeddingCache **out);

#endif
