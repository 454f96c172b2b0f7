# Everything below the bindings, with the flags each file needs: for the extension and for tests/native.
set(KERNELS_DIR ${CMAKE_CURRENT_LIST_DIR})
set(KERNELS_OPTIMISATION -O3 CACHE STRING "Optimisation of the kernels")
set(TRAMONTANE_SANITIZE "" CACHE STRING "Sanitizers to build with: address,undefined or thread; none: empty")
find_package(Threads REQUIRED)

# What a sanitizer finds ends the process.
function(sanitize target)
  if(TRAMONTANE_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${TRAMONTANE_SANITIZE} -fno-sanitize-recover=all
      -fno-omit-frame-pointer -g1 -D_GLIBCXX_ASSERTIONS)
    target_link_options(${target} PRIVATE -fsanitize=${TRAMONTANE_SANITIZE})
  endif()
endfunction()

function(add_kernels target)
  list(APPEND sources cpu_features.cpp thread_pool.cpp pack.cpp dequantize.cpp quantize.cpp matmul.cpp layers.cpp low_rank.cpp packed_attention.cpp kernels_scalar.cpp)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    add_instruction_set(kernels_avx2.cpp matmul_int_avx2.cpp FLAGS -mavx2 -mfma -mf16c)
    # GCC 12 warns about the undefined registers of its own AVX-512 header.
    set(avx512 -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mprefer-vector-width=512
      -Wno-uninitialized -Wno-maybe-uninitialized)
    add_instruction_set(kernels_avx512.cpp matmul_int_avx512.cpp FLAGS ${avx512})
    add_instruction_set(matmul_bf16_avx512.cpp document_attention_avx512_bf16.cpp FLAGS ${avx512} -mavx512bf16)
    add_instruction_set(kernels_avx512_amx.cpp document_attention_amx.cpp matmul_bf16_amx.cpp matmul_int_amx.cpp
      FLAGS ${avx512} -mavx512bf16 -mamx-tile -mamx-bf16 -mamx-int8)
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64|ARM64")
    add_instruction_set(kernels_neon.cpp matmul_int_neon.cpp)
    add_instruction_set(matmul_int_neon_dotprod.cpp FLAGS -march=armv8.2-a+dotprod)
  endif()
  list(TRANSFORM sources PREPEND ${KERNELS_DIR}/)
  target_sources(${target} PRIVATE ${sources})
  # Results are the same whatever the compiler would like to fuse: multiply-adds are written where they are meant.
  target_compile_options(${target} PRIVATE -Wall -Wextra ${KERNELS_OPTIMISATION} -ffp-contract=off)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # Both passes move the additions of a block behind all its products, which then spill to the stack (2x in prefill).
    target_compile_options(${target} PRIVATE -fno-tree-reassoc -fno-tree-ter)
  endif()
  target_link_libraries(${target} PRIVATE Threads::Threads)
  sanitize(${target})
endfunction()

# Files that only run where the processor has the set: FLAGS are theirs alone.
macro(add_instruction_set)
  cmake_parse_arguments(SET "" "" "FLAGS" ${ARGN})
  list(APPEND sources ${SET_UNPARSED_ARGUMENTS})
  list(TRANSFORM SET_UNPARSED_ARGUMENTS PREPEND ${KERNELS_DIR}/)
  set_source_files_properties(${SET_UNPARSED_ARGUMENTS} PROPERTIES COMPILE_OPTIONS "${SET_FLAGS}")
endmacro()
