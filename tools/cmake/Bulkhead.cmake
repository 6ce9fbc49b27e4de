# Compiler settings, dependencies and the few helpers that every folder uses.

find_program(CCACHE ccache)
if(CCACHE)
  # pch_defines and time_macros: what ccache needs to hit with precompiled headers.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${CCACHE})
endif()

add_library(bulkhead_options INTERFACE)
target_include_directories(bulkhead_options INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR}/generated)
target_compile_options(bulkhead_options INTERFACE
  -Wall -Wextra -Werror -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Wcast-align -Wunused
  -Woverloaded-virtual -Wformat=2 -Wimplicit-fallthrough
  -fno-plt -fstack-protector-strong $<$<CONFIG:Release>:-D_FORTIFY_SOURCE=2>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  target_compile_options(bulkhead_options INTERFACE -Wglobal-constructors -Wno-unused-private-field)
endif()
if(BULKHEAD_SANITIZE)
  target_compile_options(bulkhead_options INTERFACE -fsanitize=${BULKHEAD_SANITIZE} -fno-omit-frame-pointer -U_FORTIFY_SOURCE)
  target_link_options(bulkhead_options INTERFACE -fsanitize=${BULKHEAD_SANITIZE})
  set(BULKHEAD_STATIC OFF)
endif()
if(BULKHEAD_FUZZ)
  # Coverage feedback in the code under test, not only in the fuzzer's own file.
  target_compile_options(bulkhead_options INTERFACE -fsanitize=fuzzer-no-link)
  target_link_options(bulkhead_options INTERFACE -fsanitize=fuzzer-no-link)
endif()
if(CMAKE_BUILD_TYPE STREQUAL "Debug")
  target_compile_definitions(bulkhead_options INTERFACE BULKHEAD_DEBUG=1)
endif()

find_package(Threads REQUIRED)
find_package(Boost 1.81 REQUIRED)
find_package(fmt REQUIRED)
find_package(PkgConfig REQUIRED)
if(BULKHEAD_STATIC)
  set(CMAKE_FIND_LIBRARY_SUFFIXES .a .so)  # find the archives of what pkg-config names
endif()
pkg_check_modules(CAPNP REQUIRED IMPORTED_TARGET capnp capnp-rpc)
pkg_check_modules(SECCOMP REQUIRED IMPORTED_TARGET libseccomp)
find_program(CAPNP_TOOL capnp REQUIRED)
find_program(IASL_TOOL iasl REQUIRED)

add_library(bulkhead_fmt INTERFACE)
target_link_libraries(bulkhead_fmt INTERFACE fmt::fmt-header-only)

# One precompiled header, made once and shared: the standard headers and fmt, which every file includes.
file(WRITE ${CMAKE_BINARY_DIR}/generated/bulkhead_pch.cc "")
add_library(bulkhead_pch OBJECT ${CMAKE_BINARY_DIR}/generated/bulkhead_pch.cc)
target_link_libraries(bulkhead_pch PUBLIC bulkhead_options bulkhead_fmt Threads::Threads)
target_precompile_headers(bulkhead_pch PRIVATE
  <algorithm> <array> <atomic> <chrono> <cstdint> <map> <memory> <optional> <span> <string>
  <string_view> <thread> <variant> <vector> <fmt/format.h> <boost/system/result.hpp>)

# bulkhead_library(NAME SOURCES... [DEPENDS targets]): a static library of one folder's sources.
function(bulkhead_library name)
  cmake_parse_arguments(ARG "" "" "DEPENDS;SOURCES" ${ARGN})
  if(ARG_SOURCES)
    add_library(${name} STATIC ${ARG_SOURCES})
    target_link_libraries(${name} PUBLIC bulkhead_options bulkhead_fmt Threads::Threads ${ARG_DEPENDS})
    target_precompile_headers(${name} REUSE_FROM bulkhead_pch)
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE bulkhead_options bulkhead_fmt Threads::Threads ${ARG_DEPENDS})
  endif()
endfunction()

# bulkhead_program(NAME SOURCES... DEPENDS targets): an executable in build/bin.
# DYNAMIC: for one that needs a shared library.
function(bulkhead_program name)
  cmake_parse_arguments(ARG "DYNAMIC" "" "DEPENDS;SOURCES" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE bulkhead_options ${ARG_DEPENDS})
  target_precompile_headers(${name} REUSE_FROM bulkhead_pch)
  if(ARG_DYNAMIC)
    target_link_options(${name} PRIVATE -pie -Wl,-z,now -Wl,-z,relro -static-libstdc++ -static-libgcc)
  elseif(BULKHEAD_STATIC)
    # static-pie: address randomisation as anywhere else, and the unwinder finds its tables at once
    target_link_options(${name} PRIVATE -static-pie)
  endif()
endfunction()
