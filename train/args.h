/* The command line of a subcommand: positional words, flags of its own, and overrides of options.
 *
 * A subcommand takes what it knows by name; what is left over are overrides for the option table
 * (train/options.h), which knows the rest and names what nobody knows.
 */
#ifndef RETORT_TRAIN_ARGS_H
#define RETORT_TRAIN_ARGS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct Args {
    int n;
    char **words; /* not owned; entries that were taken are removed */
} Args;

/* args_positional: takes the next word that does not start with "--"; NULL if there is none. */
const char *args_positional(Args *args);
/* args_flag: takes "--name=value"; NULL if absent. args_switch: takes a bare "--name". */
const char *args_flag(Args *args, const char *name);
bool args_switch(Args *args, const char *name);

/* args_need: as args_flag. errors  E_CONFIG naming the flag and `usage` if it is absent */
Status args_need(Args *args, const char *name, const char *usage, const char **out);
/* args_int: value of --name, or `missing`. errors  E_CONFIG if it is not a whole number in
 * [min,max] */
Status args_int(Args *args, const char *name, int64_t missing, int64_t min, int64_t max,
                int64_t *out);
/* args_double: value of --name, or `missing`. errors  E_CONFIG if it is not a number */
Status args_double(Args *args, const char *name, double missing, double *out);
/* args_finish: errors  E_CONFIG naming the first word that is left over */
Status args_finish(const Args *args, const char *usage);

#endif
