/* A plain program that loads, for ThreadSanitizer: tsan_loader FOLDER. Run by `make tsan`. Loaders
 * of several threads, read to the end, left early, and with samples that are replaced; all must
 * give the same.
 */
#include <stdio.h>

#include "tests/loader_hash.h"

static Status load(const Source *source, int n_threads, int64_t n_steps, uint64_t *hash)
{
    LoaderConfig config = loader_small_config();
    config.n_threads = n_threads;
    config.max_bad_fraction = 1;
    Loader *loader;
    const Batch *batch;
    TRY(loader_create(source, &config, 0, &loader));
    Status status = OK;
    *hash = 1;
    for (int64_t s = 0; s < n_steps && status == OK; s++) {
        status = loader_next(loader, &batch);
        for (int64_t b = 0; b < config.batch && status == OK; b++) {
            uint64_t image = loader_hash_image(&config, batch, b);
            *hash = hash_bytes(*hash, &image, sizeof image);
        }
    }
    printf("%d threads, %lld steps: %016llx, %lld broken\n", n_threads, (long long)n_steps,
           (unsigned long long)*hash, (long long)loader_broken_samples(loader));
    loader_destroy(loader);
    return status;
}

int main(int argc, char **argv)
{
    const char *root = argc == 2 ? argv[1] : "";
    Source *source;
    uint64_t wanted = 0, hash = 0;
    Status status = source_open(&(SourceConfig){.roots = &root, .n_roots = 1, .masks = true},
                                &source);
    if (status == OK) status = load(source, 0, 20, &wanted);
    for (int n_threads = 2; n_threads <= 8 && status == OK; n_threads += 2) {
        status = load(source, n_threads, 20, &hash);
        if (status == OK && hash != wanted)
            status = status_fail(E_FORMAT, "%d threads give other samples", n_threads);
    }
    if (status == OK) status = load(source, 8, 1, &hash);
    if (status != OK) fprintf(stderr, "tsan_loader: %s\n", status_message());
    return status != OK;
}
