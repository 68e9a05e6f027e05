/* A plain program that loads, for ThreadSanitizer: tsan_loader FOLDER. Run by `make tsan`. Loaders
 * of several threads, read to the end, left early, and with samples that are replaced.
 */
#include <stdio.h>

#include "data/loader.h"

static Status load(const Source *source, int n_threads, int64_t n_steps)
{
    LoaderConfig config = {.image_size = 64,
                           .teacher_size = 96,
                           .frame = 128,
                           .n_masks = 6,
                           .n_slots = 11,
                           .max_points = 10,
                           .mask_words = 20000,
                           .decode_margin = 1,
                           .flip = 0.5,
                           .box_probability = 0.5,
                           .batch = 4,
                           .world_size = 1,
                           .n_threads = n_threads,
                           .prefetch = 3,
                           .max_bad_fraction = 1};
    Loader *loader;
    const Batch *batch;
    TRY(loader_create(source, &config, 0, &loader));
    Status status = OK;
    double sum = 0;
    for (int64_t s = 0; s < n_steps && status == OK; s++) {
        status = loader_next(loader, &batch);
        for (int i = 0; status == OK && i < 64 * 64 * 3 * 4; i++) sum += batch->image[i];
    }
    printf("%d threads, %lld steps, sum of pixels %.3f, %lld broken\n", n_threads,
           (long long)n_steps, sum, (long long)loader_broken_samples(loader));
    loader_destroy(loader);
    return status;
}

int main(int argc, char **argv)
{
    const char *root = argc == 2 ? argv[1] : "";
    Source *source;
    Status status = source_open(&(SourceConfig){.roots = &root, .n_roots = 1, .masks = true},
                                &source);
    for (int n_threads = 0; n_threads <= 8 && status == OK; n_threads += 2)
        status = load(source, n_threads, 20);
    if (status == OK) status = load(source, 8, 1);
    if (status != OK) fprintf(stderr, "tsan_loader: %s\n", status_message());
    return status != OK;
}
