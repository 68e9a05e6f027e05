/* Ranks of a run. See ranks.h. */
#include "train/ranks.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/memory.h"
#include "train/recipe.h"

/* ---- joining ---- */

static Status set_number(Options *options, int option, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, value);
    return options_set(options, option, text);
}

Status ranks_divide_batch(Options *o, int n_ranks)
{
    int64_t global = o->train_global_batch, part = global / n_ranks, micro = o->train_micro_batch;
    if (global == 0) return OK;
    if (global % n_ranks != 0)
        return status_fail(E_CONFIG,
                           "train.global_batch = %" PRId64 " cannot be divided among %d ranks",
                           global, n_ranks);
    if (micro == o->train_batch || micro > part) micro = part;
    if (part % micro != 0)
        return status_fail(E_CONFIG,
                           "train.global_batch = %" PRId64 " makes %" PRId64
                           " images per rank, no multiple of train.micro_batch = %" PRId64,
                           global, part, micro);
    TRY(set_number(o, OPTION_train_batch, part));
    return set_number(o, OPTION_train_micro_batch, micro);
}

/* Ranks of one host share its cores; each taking all of them would be many times slower. */
static Status divide_cores(Options *o, const Comm *comm)
{
    if (!comm || o->run_threads != 0) return OK;
    int64_t n = sysconf(_SC_NPROCESSORS_ONLN) / comm_local_size(comm);
    return set_number(o, OPTION_run_threads, n > 0 ? n : 1);
}

Status ranks_open(Options *options, Comm **out)
{
    Launch launch;
    TRY(launch_from_environment(&launch));
    TRY(comm_open(&launch, options->run_rank_timeout * 1000, out));
    if (*out && launch.rank == 0)
        fprintf(stderr, "%d ranks, started by %s\n%s", launch.world_size, launch.launcher,
                comm_map(*out));
    return divide_cores(options, *out);
}

/* ---- sharing ---- */

/* at a time: a store of many GB needs no second one on the host */
enum { SHARED_BYTES = 64 << 20 };

static Status share_part(Comm *comm, const char *name, Store *store, size_t at, size_t n_bytes,
                         void *host)
{
    Backend *backend = store->backend;
    char *memory = (char *)store->memory + at;
    if (comm_rank(comm) == 0) TRY(backend->download(backend, host, memory, n_bytes));
    TRY(comm_broadcast(comm, name, host, n_bytes, 0));
    return comm_rank(comm) == 0 ? OK : backend->upload(backend, memory, host, n_bytes);
}

Status ranks_share_store(Comm *comm, const char *name, Store *store)
{
    if (!comm) return OK;
    Status status = OK;
    void *host = mem_alloc(SHARED_BYTES);
    for (size_t at = 0; at < store->memory_bytes && status == OK; at += SHARED_BYTES) {
        size_t left = store->memory_bytes - at;
        status = share_part(comm, name, store, at, left < SHARED_BYTES ? left : SHARED_BYTES, host);
    }
    free(host);
    return status;
}

Status ranks_share_buffers(Comm *comm, Store *store)
{
    Status status = OK;
    for (int i = 0; i < store->n_entries && comm && status == OK; i++) {
        const StoreEntry *entry = &store->entries[i];
        if (entry->kind != STORE_BUFFER) continue;
        size_t n_bytes = (size_t)shape_elems(entry->shape) * dtype_size(entry->dtype);
        void *host = mem_alloc(n_bytes);
        status = share_part(comm, entry->name, store,
                            (size_t)((char *)entry->data - (char *)store->memory), n_bytes, host);
        free(host);
    }
    return status;
}

/* ---- the learning rate ---- */

void ranks_print_lr(const Options *o, int n_ranks, FILE *out)
{
    fprintf(out, "learning rate %g = optim.lr %g", recipe_peak_lr(o, n_ranks), o->optim_lr);
    if (o->optim_lr_batch > 0)
        fprintf(out, " x global batch %" PRId64 " / optim.lr_batch %" PRId64,
                o->train_batch * n_ranks, o->optim_lr_batch);
    if (o->optim_lr_times_ranks) fprintf(out, " x %d ranks (optim.lr_times_ranks)", n_ranks);
    fprintf(out, "\n");
}
