/* The stack machine inside the pickle reader: memory, stack and refusals. Private to
 * checkpoints/pickle.c (the instructions) and pickle_torch.c (the calls that make tensors).
 */
#ifndef RETORT_CHECKPOINTS_PICKLE_MACHINE_H
#define RETORT_CHECKPOINTS_PICKLE_MACHINE_H

#include "checkpoints/pickle.h"

typedef struct Block Block; /* of memory for values; freed together */

typedef struct Machine {
    const char *path;
    const unsigned char *bytes;
    size_t n_bytes, position; /* of the next byte to read */
    size_t opcode_at;         /* of the instruction being run, for messages */
    Block *blocks;
    size_t *left_bytes; /* that may still be allocated for the file */
    PickleValue **stack;
    int n_stack, stack_capacity;
    int *marks; /* heights of the stack at the MARKs that are open */
    int n_marks, marks_capacity;
    PickleValue **memo;        /* NULL where nothing was put */
    int n_memo, memo_capacity; /* entries put, and room */
    bool stopped;
} Machine;

struct Pickle {
    Machine machine;
    const PickleValue *root;
};

/* machine_refuse: E_FORMAT naming file and byte of the instruction. */
Status machine_refuse(const Machine *machine, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* machine_take: zeroed memory that lives as long as the pickle.
 * errors  E_FORMAT beyond the budget */
Status machine_take(Machine *machine, size_t n_bytes, void **out);

/* machine_value: a new value of a kind. errors  as machine_take */
Status machine_value(Machine *machine, PickleKind kind, PickleValue **out);

/* machine_grow: room for `need` elements in an array of the machine (the address of its pointer);
 * new room is zero. errors  as machine_take */
Status machine_grow(Machine *machine, void *array, int *capacity, size_t need,
                    size_t element_bytes);
void machine_free(Machine *machine); /* all blocks */

/* machine_read_bytes: the next bytes of the pickle; machine_read_number: an unsigned number of 1 to
 * 8 bytes, little-endian. errors  E_FORMAT if fewer are left */
Status machine_read_bytes(Machine *machine, uint64_t n_bytes, const unsigned char **out);
Status machine_read_number(Machine *machine, int n_bytes, uint64_t *out);

/* machine_copy_text: as a string. errors  E_FORMAT if it is not UTF-8 or holds a zero byte */
Status machine_copy_text(Machine *machine, const unsigned char *bytes, size_t n_bytes, char **out);

Status machine_push(Machine *machine, PickleValue *value);
Status machine_push_new(Machine *machine, PickleKind kind, PickleValue **out);

/* machine_need: errors  E_FORMAT if fewer than n values lie above the last MARK, or the bottom */
Status machine_need(const Machine *machine, int n);
PickleValue *machine_top(const Machine *machine);

/* machine_close_mark: removes the last MARK; the *n values above it stay. errors  E_FORMAT */
Status machine_close_mark(Machine *machine, int *n);

/* machine_move_items: moves the top n values to the end of a container. errors  as machine_take */
Status machine_move_items(Machine *machine, PickleValue *container, int n);

/* machine_container_below: the value below the top n. errors  E_FORMAT if it is not of `kind` */
Status machine_container_below(const Machine *machine, int n, PickleKind kind, PickleValue **out);

/* The names a pickle may import. */
typedef enum PickleGlobal {
    GLOBAL_ORDERED_DICT,
    GLOBAL_REBUILD_TENSOR,
    GLOBAL_REBUILD_PARAMETER,
    GLOBAL_STORAGE, /* this and those behind it: storage classes */
} PickleGlobal;

/* torch_global: the value for module.name. errors  E_FORMAT if it is not allowed */
Status torch_global(Machine *machine, const char *module, const char *name, PickleValue **out);
/* torch_call: function(arguments). errors  E_FORMAT if they do not fit together */
Status torch_call(Machine *machine, const PickleValue *function, const PickleValue *arguments,
                  PickleValue **out);
/* torch_storage: what a persistent id stands for. errors  E_FORMAT */
Status torch_storage(Machine *machine, const PickleValue *id, PickleValue **out);

#endif
