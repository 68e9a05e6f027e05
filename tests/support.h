/* Shared by the test programs: where sample data lies, and skips that are counted and named. */
#ifndef RETORT_TESTS_SUPPORT_H
#define RETORT_TESTS_SUPPORT_H

#include <stdbool.h>
#include <stddef.h>

#include "autograd/store.h"
#include "data/source.h"

/* shared_path: "../shared/NAME" beside the checkout, in `buffer`; whether it exists. Test programs
 * run from the root of the checkout. */
bool shared_path(const char *name, char *buffer, size_t buffer_bytes);

/* test_folder: an empty folder under build/tmp for one test; its path. */
const char *test_folder(const char *name, char *buffer, size_t buffer_bytes);

/* open_source: the samples of one root, all masks kept. errors  those of source_open */
Status open_source(const char *root, bool masks, Source **out);

/* enlarge_weights: multiplies all parameters of two dims or more. Weights as they are drawn give
 * nearly one mask for all prompts; larger ones do not. */
void enlarge_weights(Store *store, float factor);

/* write_large_weights: a weights file for a model description: seed 3, enlarged. */
void write_large_weights(const char *path_of_model, float factor, const char *path);

/* SKIP_WITHOUT(path, name): skips the test, by name, where the sample data is missing. */
#define SKIP_WITHOUT(name, buffer)                                               \
    do {                                                                         \
        if (!shared_path(name, buffer, sizeof buffer))                           \
            cr_skip_test("sample data %s is missing beside the checkout", name); \
    } while (0)

#endif
