/* Who this process is among the ranks of a run, read from the variables of what started it.
 *
 * Called by comm.c. Three launchers are known by their variables alone (nothing of theirs is
 * linked), the first that matches counts:
 *   torchrun  RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT
 *   mpirun    OMPI_COMM_WORLD_RANK, .._SIZE, .._LOCAL_RANK, .._LOCAL_SIZE (Open MPI)
 *   srun      SLURM_STEP_ID, SLURM_STEP_NUM_TASKS, SLURM_PROCID, SLURM_LOCALID,
 *             SLURM_STEP_NODELIST, SLURM_JOB_ID
 * Without any of them the process is alone. MASTER_ADDR and MASTER_PORT say where rank 0's hub
 * listens, under every launcher.
 *
 * Must hold: variables that are there in part are refused. A rank that took itself for a run of one
 * would train on, and overwrite the files of the others.
 */
#ifndef RETORT_KERNELS_COMM_LAUNCH_H
#define RETORT_KERNELS_COMM_LAUNCH_H

#include "base/status.h"

typedef struct Launch {
    int rank, world_size, local_rank;
    const char *launcher; /* "torchrun", "mpirun", "srun" or "alone" */
    char host[256];       /* where rank 0's hub listens; "" when alone */
    int port;
    char job[128]; /* equal on all ranks of a run, so that two runs on one port do not mix */
} Launch;

typedef const char *(*LaunchLookup)(const char *name); /* NULL: not set */

/* launch_read: from variables that `lookup` gives.
 * errors  E_CONFIG naming the launcher, the variable, what it says and what was wanted */
Status launch_read(LaunchLookup lookup, Launch *out);

Status launch_from_environment(Launch *out); /* as above, from the process's own */

#endif
