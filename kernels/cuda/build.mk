# The CUDA plug-in, included by the Makefile.
#   make CUDA=1     $(BUILD)/libretort_cuda.so beside the program; needs a CUDA toolkit with cuDNN and NCCL
CUDA_HOME ?= /usr/local/cuda
NVCC ?= $(CUDA_HOME)/bin/nvcc
CUDA_INCLUDE = -isystem $(CUDA_HOME)/include
CUDA_ARCH = -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=[sm_90,compute_90]
CUDA_KERNELS = $(wildcard kernels/cuda/*.cu)
CUDA_HOST = $(wildcard kernels/cuda/*.c)
CUDA_OBJ = $(CUDA_KERNELS:%=$(BUILD)/%.o) $(CUDA_HOST:%.c=$(BUILD)/%.o)

ifdef CUDA
all: $(BUILD)/libretort_cuda.so
endif

# The engine's functions come from the program that opens a plug-in; its own must all be there.
all_ops_bound = @if nm --dynamic --undefined-only $1 | grep ' cuda_' >&2; then \
    echo "make: $1: these functions are missing" >&2; rm -f $1; exit 1; fi

# One line if there is no toolkit, instead of a page of missing headers.
cuda-toolkit:
	@for file in bin/nvcc include/cuda_runtime.h include/cudnn.h include/cublasLt.h include/nccl.h; do \
	    test -e "$(CUDA_HOME)/$$file" || { echo "make: no CUDA toolkit with cuDNN and NCCL in $(CUDA_HOME):" \
	        "$$file is missing; set CUDA_HOME to where they are" >&2; exit 1; }; done

$(BUILD)/kernels/cuda/%.cu.o: kernels/cuda/%.cu | cuda-toolkit
	@mkdir -p $(@D)
	scripts/nvcc.sh $(NVCC) -std=c++17 -O3 $(CUDA_ARCH) -I. -Xcompiler -fPIC,-Wall,-Wextra -MMD -MP \
	    -c $< -o $@
$(BUILD)/kernels/cuda/%.o: CFLAGS += -fPIC -fvisibility=hidden $(CUDA_INCLUDE)
$(CUDA_HOST:%.c=$(BUILD)/%.o): | cuda-toolkit

$(BUILD)/libretort_cuda.so: $(CUDA_OBJ)
	$(NVCC) -shared -cudart static $^ -L$(CUDA_HOME)/lib64 -lcudnn -lcublasLt -lnccl \
	    -Xlinker -rpath=$(CUDA_HOME)/lib64 -o $@
	$(call all_ops_bound,$@)

.PHONY: cuda-toolkit
