# Included by CMake right after llama.cpp's own project() call (CMAKE_PROJECT_llama.cpp_INCLUDE): a build of
# what llama-cpp-python's bindings load, and in less time. The kernels, in ggml, keep their -O3.
set(LLAMA_BUILD_COMMON OFF)

function(meshnode_build_quickly)
  # `llama` only builds graphs, reads files and draws tokens; -O1 costs no measurable speed there.
  target_compile_options(llama PRIVATE -O1 -w)
  # Drawing a token goes through the whole vocabulary's scores.
  set_source_files_properties(src/llama-sampler.cpp TARGET_DIRECTORY llama PROPERTIES COMPILE_OPTIONS -O2)
endfunction()
cmake_language(DEFER CALL meshnode_build_quickly)
