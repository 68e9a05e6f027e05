/* The loader's memory stays flat: flat_loader FOLDER reads 20,000 samples of FOLDER on four threads
 * and fails if the process grew by more than 2 MiB after the first 1,000. Run by `make flat`.
 */
#include <stdio.h>

#include "tests/loader_hash.h"
#include "train/bench.h"

enum { N_SAMPLES = 20000, N_WARM = 1000 };

static Status load(const Source *source, int64_t *early, int64_t *late)
{
    LoaderConfig config = loader_small_config();
    config.n_threads = 4;
    config.max_bad_fraction = 1;
    Loader *loader;
    const Batch *batch;
    TRY(loader_create(source, &config, 0, &loader));
    Status status = OK;
    for (int64_t n = 0; n < N_SAMPLES && status == OK; n += config.batch) {
        status = loader_next(loader, &batch);
        if (n == N_WARM) *early = bench_resident_bytes("VmHWM");
    }
    *late = bench_resident_bytes("VmHWM");
    printf("loader: peak %.2f MiB after %d samples, %.2f MiB after %d; %lld broken ones replaced\n",
           (double)*early / (1 << 20), N_WARM, (double)*late / (1 << 20), N_SAMPLES,
           (long long)loader_broken_samples(loader));
    loader_destroy(loader);
    return status;
}

int main(int argc, char **argv)
{
    const char *root = argc == 2 ? argv[1] : "";
    Source *source;
    int64_t early = 0, late = 0;
    Status status = source_open(&(SourceConfig){.roots = &root, .n_roots = 1, .masks = true},
                                &source);
    if (status == OK) status = load(source, &early, &late);
    if (status == OK) source_close(source);
    if (status != OK) fprintf(stderr, "flat_loader: %s\n", status_message());
    return status != OK || early == 0 || late - early > 2 << 20;
}
