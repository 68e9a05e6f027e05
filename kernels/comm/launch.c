/* Variables of torchrun, mpirun and srun. See launch.h. */
#include "kernels/comm/launch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

enum { DEFAULT_PORT = 29500, FIRST_JOB_PORT = 20000, N_JOB_PORTS = 10000 };

typedef struct Names { /* of one launcher's variables */
    const char *launcher, *rank, *size, *local_rank;
} Names;

static bool has(LaunchLookup lookup, const char *name)
{
    const char *text = lookup(name);
    return text != NULL && text[0] != '\0';
}

static Status read_int(LaunchLookup lookup, const char *launcher, const char *name, int64_t min,
                       int64_t max, int *out)
{
    int64_t value;
    if (!has(lookup, name))
        return status_fail(E_CONFIG,
                           "started by %s, but %s is not set; start all ranks by torchrun, mpirun "
                           "or srun, or unset its variables to run alone",
                           launcher, name);
    if (!text_to_int(lookup(name), &value) || value < min || value > max)
        return status_fail(E_CONFIG,
                           "started by %s: %s = \"%s\", wanted a number from %lld to %lld",
                           launcher, name, lookup(name), (long long)min, (long long)max);
    *out = (int)value;
    return OK;
}

static Status read_ranks(LaunchLookup lookup, const Names *names, Launch *out)
{
    out->launcher = names->launcher;
    TRY(read_int(lookup, names->launcher, names->size, 1, 1 << 20, &out->world_size));
    TRY(read_int(lookup, names->launcher, names->rank, 0, out->world_size - 1, &out->rank));
    return read_int(lookup, names->launcher, names->local_rank, 0, out->world_size - 1,
                    &out->local_rank);
}

static Status set_host(Launch *out, const char *host, size_t length)
{
    if (length >= sizeof out->host)
        return status_fail(E_CONFIG, "started by %s: the name of rank 0's host has %zu letters",
                           out->launcher, length);
    memcpy(out->host, host, length);
    out->host[length] = '\0';
    return OK;
}

/* MASTER_ADDR and MASTER_PORT where they are set. */
static Status read_master(LaunchLookup lookup, Launch *out)
{
    if (has(lookup, "MASTER_ADDR")) {
        const char *host = lookup("MASTER_ADDR");
        TRY(set_host(out, host, strlen(host)));
    }
    if (!has(lookup, "MASTER_PORT")) return OK;
    return read_int(lookup, out->launcher, "MASTER_PORT", 1, 65534, &out->port);
}

static void set_job(Launch *out, const char *id)
{
    snprintf(out->job, sizeof out->job, "%s %s", out->launcher, id ? id : "");
}

/* torchrun's agent may keep a store of its own on MASTER_PORT: our hub then takes the next port. */
static Status read_torchrun(LaunchLookup lookup, Launch *out)
{
    static const Names names = {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK"};
    TRY(read_ranks(lookup, &names, out));
    TRY(read_int(lookup, "torchrun", "MASTER_PORT", 1, 65534, &out->port));
    if (!has(lookup, "MASTER_ADDR"))
        return status_fail(E_CONFIG, "started by torchrun, but MASTER_ADDR is not set");
    TRY(read_master(lookup, out));
    const char *agent = lookup("TORCHELASTIC_USE_AGENT_STORE");
    if (agent && strcmp(agent, "True") == 0) out->port++;
    set_job(out, lookup("TORCHELASTIC_RUN_ID"));
    return OK;
}

static Status read_mpirun(LaunchLookup lookup, Launch *out)
{
    static const Names names = {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                                "OMPI_COMM_WORLD_LOCAL_RANK"};
    int local_size = 1;
    TRY(read_ranks(lookup, &names, out));
    TRY(read_int(lookup, "mpirun", "OMPI_COMM_WORLD_LOCAL_SIZE", 1, out->world_size, &local_size));
    out->port = DEFAULT_PORT;
    if (local_size == out->world_size) TRY(set_host(out, "127.0.0.1", strlen("127.0.0.1")));
    TRY(read_master(lookup, out));
    if (out->host[0] == '\0')
        return status_fail(E_CONFIG, "started by mpirun on several hosts: set MASTER_ADDR to the "
                                     "host of rank 0 (mpirun -x MASTER_ADDR=HOST)");
    set_job(out, lookup("PMIX_NAMESPACE"));
    return OK;
}

/* The first host of Slurm's compressed list: "node[07-09,12],login" is node07. */
static Status first_host(const char *list, Launch *out)
{
    size_t prefix = strcspn(list, "[,");
    TRY(set_host(out, list, prefix));
    if (list[prefix] != '[') return OK;
    size_t number = strcspn(list + prefix + 1, "-,]");
    if (prefix + number >= sizeof out->host)
        return status_fail(E_CONFIG, "started by srun: SLURM_STEP_NODELIST = \"%s\" is too long",
                           list);
    memcpy(out->host + prefix, list + prefix + 1, number);
    out->host[prefix + number] = '\0';
    return OK;
}

static Status read_srun(LaunchLookup lookup, Launch *out)
{
    static const Names names = {"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"};
    int job = 0;
    TRY(read_ranks(lookup, &names, out));
    TRY(read_int(lookup, "srun", "SLURM_JOB_ID", 0, INT32_MAX, &job));
    if (!has(lookup, "SLURM_STEP_NODELIST"))
        return status_fail(E_CONFIG, "started by srun, but SLURM_STEP_NODELIST is not set");
    TRY(first_host(lookup("SLURM_STEP_NODELIST"), out));
    out->port = FIRST_JOB_PORT + job % N_JOB_PORTS;
    TRY(read_master(lookup, out));
    snprintf(out->job, sizeof out->job, "srun %d.%s", job, lookup("SLURM_STEP_ID"));
    return OK;
}

/* A batch script that starts us without srun sees the job's number of tasks, but is one process. */
static Status check_alone(LaunchLookup lookup)
{
    int64_t n_tasks;
    if (!has(lookup, "SLURM_JOB_ID") || !has(lookup, "SLURM_NTASKS")) return OK;
    if (!text_to_int(lookup("SLURM_NTASKS"), &n_tasks) || n_tasks <= 1) return OK;
    return status_fail(E_CONFIG,
                       "this Slurm job has %lld tasks, but the command was started without srun; "
                       "put srun before it, or unset SLURM_NTASKS to run one process",
                       (long long)n_tasks);
}

static bool any(LaunchLookup lookup, int n, const char *const *names)
{
    for (int i = 0; i < n; i++)
        if (has(lookup, names[i])) return true;
    return false;
}

Status launch_read(LaunchLookup lookup, Launch *out)
{
    static const char *const torchrun[] = {"RANK", "WORLD_SIZE", "LOCAL_RANK"};
    static const char *const mpirun[] = {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                                         "OMPI_COMM_WORLD_LOCAL_RANK"};
    static const char *const srun[] = {"SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS"};
    *out = (Launch){.world_size = 1, .launcher = "alone"};
    if (any(lookup, 3, torchrun)) return read_torchrun(lookup, out);
    if (any(lookup, 3, mpirun)) return read_mpirun(lookup, out);
    if (any(lookup, 2, srun)) return read_srun(lookup, out);
    return check_alone(lookup);
}

static const char *from_environment(const char *name) { return getenv(name); }

Status launch_from_environment(Launch *out) { return launch_read(from_environment, out); }
