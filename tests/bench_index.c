/* A data set of SA-1B's size, as far as a loader sees it: 11 million images in 1,000 shards, of
 * which only the indexes hold anything. Measures how long opening takes, how much memory it takes
 * once every record was touched, and what the next sample costs. Run by `make bench-index`.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "data/source.h"
#include "data/tar_index.h"

enum { SHARDS = 1000, PER_SHARD = 11000, MEMBER_BLOCKS = 900, MAX_SECONDS = 2, MAX_MB = 200 };

static double resident_mb(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return 0;
    if (fscanf(file, "%*d %ld", &pages) != 1) pages = 0;
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / 1e6;
}

/* A shard of the right length without content, and the index that its content would have. */
static Status make_shard(const char *folder, const char *index_folder, int shard,
                         TarRecord *records)
{
    char path[300], index_path[ROOT_NAME_BYTES];
    TarShard info;
    snprintf(path, sizeof path, "%s/sa_%06d.tar", folder, shard);
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0 || ftruncate(file, (off_t)PER_SHARD * 2 * MEMBER_BLOCKS * TAR_BLOCK_BYTES) != 0)
        return status_fail(E_FILE, "%s: cannot write", path);
    close(file);
    for (int i = 0; i < PER_SHARD; i++) {
        uint32_t block = (uint32_t)i * 2 * MEMBER_BLOCKS;
        records[i] = (TarRecord){(uint64_t)shard * PER_SHARD + (uint64_t)i + 1, block,
                                 block + MEMBER_BLOCKS};
    }
    TarIndex index = {.records = records,
                      .n_records = PER_SHARD,
                      .min_id = records[0].id,
                      .max_id = records[PER_SHARD - 1].id};
    TRY(tar_shard_stat(path, &info));
    TRY(tar_index_path(index_folder, path, index_path));
    return tar_index_write(&file_ops_system, index_path, &info, &index);
}

static Status make_set(const char *folder, const char *index_folder)
{
    TarRecord *records = malloc(PER_SHARD * sizeof *records);
    Status status = records ? OK : status_fail(E_MEMORY, "out of memory");
    for (int shard = 0; status == OK && shard < SHARDS; shard++)
        status = make_shard(folder, index_folder, shard, records);
    free(records);
    return status;
}

static Status measure(const char *folder, const char *index_folder)
{
    SourceConfig config = {
        .roots = &folder, .n_roots = 1, .masks = true, .index_folder = index_folder};
    Source *source;
    double before_mb = resident_mb(), start = clock_seconds();
    TRY(source_open(&config, &source));
    double open_seconds = clock_seconds() - start;
    int64_t n = source_epoch_size(source);
    uint64_t sum = 0;
    start = clock_seconds();
    for (int64_t position = 0; position < n; position++)
        sum += source_sample_id(source, source_at(source, 1, (uint64_t)position).index);
    double next_us = 1e6 * (clock_seconds() - start) / (double)n, mb = resident_mb() - before_mb;
    source_close(source);
    printf("%lld images in %d shards: opened in %.2f s, %.0f MB, next sample %.3f us\n",
           (long long)n, SHARDS, open_seconds, mb, next_us);
    if (sum != (uint64_t)n * (uint64_t)(n + 1) / 2)
        return status_fail(E_NUMERIC, "an epoch does not take every sample once");
    if (open_seconds > MAX_SECONDS || mb > MAX_MB || next_us > 1)
        return status_fail(E_NUMERIC, "wanted at most %d s, %d MB and 1 us", MAX_SECONDS, MAX_MB);
    return OK;
}

int main(int argc, char **argv)
{
    char index_folder[300];
    if (argc != 2) return 2;
    snprintf(index_folder, sizeof index_folder, "%s/index", argv[1]);
    Status status = file_make_folders(index_folder);
    if (status == OK) status = make_set(argv[1], index_folder);
    if (status == OK) status = measure(argv[1], index_folder);
    if (status != OK) fprintf(stderr, "bench_index: %s\n", status_message());
    return status != OK;
}
