/* Who a process is among ranks, by launchers' variables; and whose fault it is when a run breaks.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "kernels/comm/launch.h"
#include "kernels/comm/verdict.h"

/* ---- launchers ---- */

static const char *const *set; /* name, value, .., NULL */

static const char *lookup(const char *name)
{
    for (int i = 0; set[i]; i += 2)
        if (strcmp(set[i], name) == 0) return set[i + 1];
    return NULL;
}

static Launch read_good(const char *const *variables)
{
    Launch launch;
    set = variables;
    cr_assert_eq(launch_read(lookup, &launch), OK, "%s", status_message());
    return launch;
}

static void expect_refused(const char *const *variables, const char *word)
{
    Launch launch;
    set = variables;
    cr_assert_eq(launch_read(lookup, &launch), E_CONFIG);
    cr_expect(strstr(status_message(), word), "%s", status_message());
}

#define SET(...) ((const char *const[]){__VA_ARGS__, NULL})

Test(ranks, launchers_are_known_by_their_variables)
{
    Launch alone = read_good(SET("MASTER_PORT", "1234"));
    cr_expect_eq(alone.world_size, 1);
    Launch torchrun = read_good(SET("RANK", "3", "WORLD_SIZE", "8", "LOCAL_RANK", "1",
                                    "MASTER_ADDR", "n0", "MASTER_PORT", "29500", "SLURM_STEP_ID",
                                    "0"));
    cr_expect(torchrun.rank == 3 && torchrun.world_size == 8 && torchrun.local_rank == 1);
    cr_expect(strcmp(torchrun.host, "n0") == 0 && torchrun.port == 29500);
    Launch agent = read_good(SET("RANK", "0", "WORLD_SIZE", "2", "LOCAL_RANK", "0", "MASTER_ADDR",
                                 "n0", "MASTER_PORT", "29500", "TORCHELASTIC_USE_AGENT_STORE",
                                 "True"));
    cr_expect_eq(agent.port, 29501);
    Launch mpirun = read_good(SET("OMPI_COMM_WORLD_RANK", "1", "OMPI_COMM_WORLD_SIZE", "2",
                                  "OMPI_COMM_WORLD_LOCAL_RANK", "1", "OMPI_COMM_WORLD_LOCAL_SIZE",
                                  "2"));
    cr_expect(mpirun.rank == 1 && strcmp(mpirun.host, "127.0.0.1") == 0);
    Launch srun = read_good(SET("SLURM_STEP_ID", "0", "SLURM_STEP_NUM_TASKS", "16", "SLURM_PROCID",
                                "9", "SLURM_LOCALID", "1", "SLURM_JOB_ID", "123",
                                "SLURM_STEP_NODELIST", "gpu[07-09,12],login"));
    cr_expect(srun.rank == 9 && srun.world_size == 16 && strcmp(srun.host, "gpu07") == 0);
}

Test(ranks, half_set_variables_are_refused)
{
    expect_refused(SET("RANK", "0"), "WORLD_SIZE");
    expect_refused(SET("RANK", "0", "WORLD_SIZE", "2"), "LOCAL_RANK");
    expect_refused(SET("RANK", "2", "WORLD_SIZE", "2", "LOCAL_RANK", "0"), "RANK = ");
    expect_refused(SET("RANK", "0", "WORLD_SIZE", "2", "LOCAL_RANK", "0"), "MASTER_PORT");
    expect_refused(SET("OMPI_COMM_WORLD_SIZE", "2"), "OMPI_COMM_WORLD_RANK");
    expect_refused(SET("OMPI_COMM_WORLD_RANK", "1", "OMPI_COMM_WORLD_SIZE", "4",
                       "OMPI_COMM_WORLD_LOCAL_RANK", "1", "OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
                   "MASTER_ADDR");
    expect_refused(SET("SLURM_STEP_ID", "0"), "SLURM_STEP_NUM_TASKS");
    expect_refused(SET("SLURM_JOB_ID", "1", "SLURM_NTASKS", "4"), "srun");
}

/* ---- verdicts ---- */

enum { N = 4, TIMEOUT_MS = 45000 };

/* Four ranks in the third collective, in which all but the last wait. */
static void make_ranks(RankView ranks[N])
{
    memset(ranks, 0, N * sizeof *ranks);
    for (int r = 0; r < N; r++) {
        ranks[r].joined = true;
        ranks[r].position = (WirePosition){.step = 7,
                                           .doing = "encoder: conv2d",
                                           .sequence = r < N - 1 ? 3 : 2,
                                           .collective = "bucket",
                                           .collective_step = 7,
                                           .collective_bytes = 4096,
                                           .waiting = r < N - 1};
    }
}

static void expect_verdict(const RankView ranks[N], const char *word)
{
    char text[WIRE_TEXT_BYTES] = "";
    bool found = verdict_find(N, ranks, TIMEOUT_MS, text, sizeof text);
    cr_expect_eq(found, word != NULL, "%s", text);
    if (word) cr_expect(strstr(text, word), "%s, wanted %s", text, word);
}

Test(ranks, the_verdict_names_who_is_to_blame)
{
    RankView ranks[N];
    make_ranks(ranks);
    expect_verdict(ranks, NULL);
    ranks[2].gone = true;
    expect_verdict(ranks, "rank 2 died");
    expect_verdict(ranks, "step 7, encoder: conv2d");
    ranks[2].finished = true;
    expect_verdict(ranks, NULL);

    make_ranks(ranks);
    ranks[1].silent_ms = TIMEOUT_MS + 1;
    expect_verdict(ranks, "rank 1 hangs");
    snprintf(ranks[3].failure, sizeof ranks[3].failure, "disk full");
    expect_verdict(ranks, "rank 3 stopped: disk full");

    make_ranks(ranks);
    ranks[3].stuck_ms = TIMEOUT_MS + 1;
    expect_verdict(ranks, "rank 3 has done nothing");
    ranks[3].position.excused = 1;
    expect_verdict(ranks, NULL);

    make_ranks(ranks);
    ranks[2].joined = false;
    ranks[2].absent_ms = TIMEOUT_MS + 1;
    expect_verdict(ranks, "rank 2 did not come");
}

Test(ranks, ranks_that_differ_are_named)
{
    RankView ranks[N];
    make_ranks(ranks);
    ranks[2].position.collective_bytes = 8192;
    expect_verdict(ranks, "rank 2 diverged");
    make_ranks(ranks);
    ranks[0].position.collective_step = 8; /* against two that agree, rank 0 is the odd one */
    expect_verdict(ranks, "rank 0 diverged");
    make_ranks(ranks);
    snprintf(ranks[1].symptom, sizeof ranks[1].symptom, "bucket failed");
    expect_verdict(ranks, NULL); /* the cause may still show */
    ranks[1].symptom_ms = SYMPTOM_PATIENCE_MS + 1;
    expect_verdict(ranks, "rank 1 bucket failed");
}
