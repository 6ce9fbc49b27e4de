# Targets for developers: format (rewrites), format-check, tidy, lint. tools/check runs the last three.
find_program(CLANG_FORMAT clang-format)
find_program(RUN_CLANG_TIDY NAMES run-clang-tidy run-clang-tidy-14)
find_package(Python3 COMPONENTS Interpreter)

set(CHECKED_FOLDERS ipc sandbox devproc vmm tools tests)
list(TRANSFORM CHECKED_FOLDERS PREPEND ${CMAKE_SOURCE_DIR}/ OUTPUT_VARIABLE CHECKED_PATHS)
set(FIND_SOURCES find ${CHECKED_PATHS} -name "*.cc" -o -name "*.h")

if(CLANG_FORMAT)
  add_custom_target(format COMMAND ${FIND_SOURCES} | xargs ${CLANG_FORMAT} -i VERBATIM)
  add_custom_target(format-check COMMAND ${FIND_SOURCES} | xargs ${CLANG_FORMAT} --dry-run -Werror VERBATIM)
endif()
if(RUN_CLANG_TIDY)
  # Precompiled headers are g++'s here; clang-tidy reads the plain ones through -include's absence.
  add_custom_target(tidy COMMAND ${CMAKE_SOURCE_DIR}/tools/tidy ${CMAKE_BINARY_DIR} VERBATIM)
endif()
if(Python3_FOUND)
  add_custom_target(lint COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tools/lint_layers.py ${CMAKE_SOURCE_DIR} VERBATIM)
  add_test(NAME lint_layers COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tools/lint_layers.py ${CMAKE_SOURCE_DIR})
  set_tests_properties(lint_layers PROPERTIES LABELS unit)
endif()
