# Included by CMake right after llama.cpp's own project() call (CMAKE_PROJECT_llama.cpp_INCLUDE): a build of
# what llama-cpp-python's bindings load, and in less time. The kernels, in ggml, keep their -O3.
set(LLAMA_BUILD_COMMON OFF)

# GCC's own _tile_loadconfig (seen in 12.2) tells the compiler that 8 of the 64 bytes are read, so it drops the
# stores of the others; the first AMX instruction then ends the process with SIGILL.
set(meshnode_amx_header "${CMAKE_BINARY_DIR}/meshnode-amx.h")
file(WRITE "${meshnode_amx_header}" "#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#define _tile_loadconfig(config) \\
  __asm__ volatile(\"ldtilecfg\\t%X0\" ::\"m\"(*(const char(*)[64])(config)) : \"memory\")
#endif
")

# ggml's kernels for half precision on AVX512-FP16 take 128 numbers at a time and do what is left one by one, in
# software: all of it in attention with heads of 64. Without them it converts to single precision, 16 at a time.
include(CheckCXXCompilerFlag)
check_cxx_compiler_flag(-mno-avx512fp16 MESHNODE_KNOWS_FP16)

function(meshnode_build_quickly)
  if(MESHNODE_KNOWS_FP16)
    target_compile_options(ggml-cpu PRIVATE $<$<COMPILE_LANGUAGE:C,CXX>:-mno-avx512fp16>)
  endif()
  # `llama` only builds graphs, reads files and draws tokens; -O1 costs no measurable speed there.
  target_compile_options(llama PRIVATE -O1 -w)
  # Drawing a token goes through the whole vocabulary's scores.
  set_source_files_properties(src/llama-sampler.cpp TARGET_DIRECTORY llama PROPERTIES COMPILE_OPTIONS -O2)
  set_source_files_properties(ggml/src/ggml-cpu/amx/mmq.cpp TARGET_DIRECTORY ggml-cpu
    PROPERTIES COMPILE_OPTIONS "-include;${meshnode_amx_header}")
endfunction()
cmake_language(DEFER CALL meshnode_build_quickly)
