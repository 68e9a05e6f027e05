# Retort. `make demo` and `make test` install what is missing, build and run; `make` only builds.
#   make            build/retort              make test      all tests (some minutes on two cores)
#   make demo       the recipe, end to end    make sanitize  the same tests, every memory access checked
#   make lint       the habits of this code   make mutants   damaged gradient rules must be found
#   make selftest   is the loss right?        make own-data  the README's page about your own data, as written
#   make CUDA=1     with the CUDA plug-in     make fuzz      readers of files are given any bytes
# The README lists all checks; those that take long are in tests/*.mk.
CC ?= gcc
CXX ?= g++
ARCH ?= native
BUILD ?= build
# -std=c17 alone would switch multiply-add fusion off, a quarter of our kernels' speed.
OPT ?= -O3 -march=$(ARCH) -fno-math-errno -fno-trapping-math -ffp-contract=fast
CFLAGS = -std=c17 -D_GNU_SOURCE $(OPT) -g -Wall -Wextra -fopenmp -I. -MMD -MP $(EXTRA)
LDLIBS = -ldnnl -lgloo -lstdc++ -lturbojpeg -lyajl -larchive -lyaml -lpng -lcrypto -lzstd -lz -lm -lpthread -ldl -fopenmp -rdynamic

LIB_DIRS = base kernels kernels/ref kernels/cpu kernels/comm kernels/plan autograd model data checkpoints
LIB_SRC = $(wildcard $(addsuffix /*.c,$(LIB_DIRS))) $(filter-out train/main.c,$(wildcard train/*.c))
LIB_OBJ = $(LIB_SRC:%.c=$(BUILD)/%.o) $(BUILD)/kernels/comm/gloo.o
TEST_SRC = $(wildcard tests/test_*.c)
TESTS = $(TEST_SRC:tests/%.c=$(BUILD)/tests/%)

SANITIZE = -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer

all: $(BUILD)/retort

# Missing Debian packages, then the rest in a make of its own, which sees what was installed.
setup:
	scripts/setup.sh
demo: setup
	$(MAKE) all
	scripts/demo.sh $(BUILD)/retort

# The README's "Your own data", as it is written there; after `make demo`.
own-data: $(BUILD)/retort
	scripts/own_data.sh

# Is the loss right, and would the band of `retort selftest` see a wrong one?
selftest: $(BUILD)/retort
	scripts/selftest.sh $(BUILD)/retort

# The progress bar and Ctrl-C, in a terminal.
terminal: $(BUILD)/retort
	scripts/setup.sh tmux
	scripts/terminal.sh $(BUILD)/retort
test: setup
	$(MAKE) all tests
	scripts/test.sh $(BUILD)
# One level of optimisation less, but with the same multiply-adds: known answers of whole steps depend on rounding.
sanitize: setup
	$(MAKE) BUILD=$(BUILD)/sanitize OPT="$(subst -O3,-O2,$(OPT))" EXTRA="$(SANITIZE)" all tests
	ASAN_OPTIONS=detect_leaks=0 scripts/test.sh $(BUILD)/sanitize
# But for the innermost products: checked, L0 takes a minute, and whole steps hours. Guard bands judge what they write.
$(BUILD)/kernels/cpu/tile.o: override EXTRA := $(filter-out -fsanitize%,$(EXTRA))
$(BUILD)/kernels/cpu/tile.o: override OPT := $(subst -O2,-O3,$(OPT))
lint:
	BUILD=$(BUILD) scripts/lint.sh

$(BUILD)/tests/%.o: CFLAGS += -DRETORT_BINARY='"$(BUILD)/retort"'
$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -c $< -o $@

# Gloo has no C interface: the one C++ file.
$(BUILD)/%.o: %.cc
	@mkdir -p $(@D)
	$(CXX) $(patsubst -std=c17,-std=c++17,$(filter-out -fopenmp,$(CFLAGS))) -c $< -o $@

$(BUILD)/libretort.a: $(LIB_OBJ)
	rm -f $@ && ar rcs $@ $^

$(BUILD)/retort: $(BUILD)/train/main.o $(BUILD)/libretort.a
	$(CC) $(EXTRA) $^ $(LDLIBS) -o $@

$(BUILD)/tests/%: $(BUILD)/tests/%.o $(BUILD)/tests/support.o $(BUILD)/tests/kat.o $(BUILD)/libretort.a | $(BUILD)/retort
	$(CC) $(EXTRA) $(filter %.o,$^) $(filter %.a,$^) -lcriterion $(LDLIBS) -o $@

# Whole runs: the program, and data made up for it.
RUN_TESTS = test_selftest test_inspect test_runs test_validation test_source test_tar test_data_check test_data_pack \
            test_run_forms test_teach test_bad_days test_memory test_allocations test_bench test_plan_command
$(addprefix $(BUILD)/tests/,$(RUN_TESTS)): $(BUILD)/tests/program.o $(BUILD)/tests/make_scenes.o
$(BUILD)/tests/test_data_loader: $(BUILD)/tests/loader_hash.o $(BUILD)/tests/make_scenes.o
$(BUILD)/tests/test_allocations: $(BUILD)/tests/alloc_count.o
$(BUILD)/tests/test_allocations: private LDLIBS += -Wl,--wrap=exec_run,--wrap=feed_batch

$(BUILD)/tests/test_kat_forward $(BUILD)/tests/kat_long $(BUILD)/tests/deviations: $(BUILD)/tests/kat_bench.o
$(BUILD)/tests/test_kat_forward: $(BUILD)/tests/kat_decoder.o

$(BUILD)/tests/test_weights_damage: $(BUILD)/tests/reread.o
$(BUILD)/tests/test_frozen: $(BUILD)/tests/toy.o
$(BUILD)/tests/test_click_rounds $(BUILD)/tests/test_click_ops: $(BUILD)/tests/click_errors.o
$(BUILD)/tests/test_precision $(BUILD)/tests/precision_long: $(BUILD)/tests/precision.o

# The op cases, and what judges ops with them.
OP_TEST_OBJ = $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/op_*.c) tests/gradcheck.c)
$(addprefix $(BUILD)/tests/,test_rules test_gradcheck test_backends mutants): $(OP_TEST_OBJ)

tests: $(TESTS)

include kernels/cuda/build.mk tests/cudasim/build.mk tests/fuzz/build.mk tests/data.mk tests/long.mk

clean:
	rm -rf $(BUILD)

.PHONY: all setup demo own-data selftest terminal test sanitize lint tests clean
.PRECIOUS: $(BUILD)/%.o
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
