# The CUDA backend against the simulator, included by the Makefile.
#   make test-cudasim    every op on the simulator, and the simulator's own tests; skipped, by name,
#                        where there is no CUDA toolkit, unless REQUIRE_CUDASIM=1
#   make mutants-cuda    the backend with one fault at a time; the tests must find each
#   make gpu-check       the same tests on a GPU, then times and memory; GPU_BACKEND=cudasim tries it without one
SIM = $(BUILD)/cudasim
# Instrumented as for ThreadSanitizer, but linked with the simulator's own hooks. Aggregates stay whole, so
# that a load of a float4 is seen as one access of 16 bytes.
SIM_KERNEL_FLAGS = -x c++ -std=c++17 -O1 -g -fno-tree-sra -fno-exceptions -ffp-contract=fast -march=$(ARCH) \
    -fsanitize=thread -include tests/cudasim/device.h -Wno-unknown-pragmas
SIM_OBJ = $(CUDA_KERNELS:kernels/cuda/%=$(SIM)/%.o) $(CUDA_HOST:kernels/cuda/%.c=$(SIM)/%.o) \
    $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/cudasim/*.c))
CXX ?= g++

$(SIM)/%.cu.o: kernels/cuda/%.cu tests/cudasim/device.h | cuda-toolkit
	@mkdir -p $(@D)
	$(CXX) $(SIM_KERNEL_FLAGS) -Wall -Wextra -fPIC -fvisibility=hidden -I. $(CUDA_INCLUDE) -MMD -MP $(EXTRA) -c $< -o $@
$(SIM)/%.o: kernels/cuda/%.c | cuda-toolkit
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -fPIC -fvisibility=hidden $(CUDA_INCLUDE) -Dretort_plugin_open=cuda_plugin_open -c $< -o $@
$(BUILD)/tests/cudasim/%.o: CFLAGS += -fPIC -fvisibility=hidden $(CUDA_INCLUDE)

$(BUILD)/libretort_cudasim.so: $(SIM_OBJ)
	$(CXX) -shared $^ -lm -o $@
	$(call all_ops_bound,$@)
# The plug-in lies beside the program that opens it, and the tests are programs, too. Both links are named here:
# a file that only a pattern can make is removed by make when it ends.
$(addprefix $(SIM)/tests/libretort_,cuda.so cudasim.so): $(SIM)/tests/%.so: $(BUILD)/%.so
	@mkdir -p $(@D)
	ln -sf ../../$(<F) $@

SIM_TESTS = $(patsubst tests/cudasim/tests/%.c,$(SIM)/tests/%,$(wildcard tests/cudasim/tests/*.c))
# All of the archive: the plug-in also calls what a test itself does not.
$(SIM)/tests/%: $(BUILD)/tests/cudasim/tests/%.o $(OP_TEST_OBJ) $(BUILD)/libretort.a | $(SIM)/tests/libretort_cudasim.so $(BUILD)/retort
	$(CC) $(EXTRA) $(filter %.o,$^) -Wl,--whole-archive $(filter %.a,$^) -Wl,--no-whole-archive -lcriterion $(LDLIBS) -o $@

$(SIM)/tests/test_kat: $(addprefix $(BUILD)/tests/,kat.o kat_bench.o kat_decoder.o support.o)
$(SIM)/tests/test_frozen: $(addprefix $(BUILD)/tests/,toy.o support.o)
$(SIM)/tests/test_steps: $(addprefix $(BUILD)/tests/,program.o make_scenes.o support.o)
# The simulator's own tests have it linked in, with small kernels, right and wrong.
$(SIM)/faults.o: tests/cudasim/faults/faults.cu tests/cudasim/device.h | cuda-toolkit
	@mkdir -p $(@D)
	$(CXX) $(SIM_KERNEL_FLAGS) -Wall -Wextra -fPIC -I. $(CUDA_INCLUDE) -MMD -MP $(EXTRA) -c $< -o $@
$(BUILD)/tests/cudasim/tests/%.o: CFLAGS += $(CUDA_INCLUDE) -DRETORT_BINARY='"$(BUILD)/retort"'
$(SIM)/tests/test_simulator: $(SIM)/faults.o $(filter-out %/watch.o,$(filter $(BUILD)/tests/cudasim/%,$(SIM_OBJ)))

ifneq ($(wildcard $(CUDA_HOME)/include/cudnn.h)$(REQUIRE_CUDASIM),)
test-cudasim: setup $(SIM_TESTS)
	scripts/test.sh $(SIM)
# Faults in the backend, as patches; the tests that each one names must find it.
MUTANTS ?= $(sort $(wildcard tests/cudasim/mutants/*.patch))
mutants-cuda: $(SIM_TESTS)
	@scripts/setup.sh patch
	@SIM_CXX="$(CXX) $(SIM_KERNEL_FLAGS) -fPIC -fvisibility=hidden -I. $(CUDA_INCLUDE)" \
	SIM_CC="$(CC) $(CFLAGS) -fPIC -fvisibility=hidden $(CUDA_INCLUDE) -Dretort_plugin_open=cuda_plugin_open" \
	SIM_OBJECTS="$(SIM_OBJ)" scripts/mutants_cuda.sh $(SIM) $(MUTANTS)
else
test-cudasim mutants-cuda:
	@echo "$@: skipped: no CUDA toolkit with cuDNN in $(CUDA_HOME)"
endif


GPU_BACKEND ?= cuda
gpu-check: setup $(SIM_TESTS) $(BUILD)/libretort_$(GPU_BACKEND).so $(SIM)/tests/libretort_$(GPU_BACKEND).so
	scripts/gpu_check.sh $(BUILD) $(GPU_BACKEND)

.PHONY: test-cudasim mutants-cuda gpu-check
