// A line for the shell, written as by printf.
#ifndef STROBE_TESTS_SHELL_H
#define STROBE_TESTS_SHELL_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

static int shell(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Its exit status; 255 if it was too long or ended otherwise.
static int shell(const char *format, ...) {
  char command[6000];
  va_list ap;
  va_start(ap, format);
  const int n = vsnprintf(command, sizeof command, format, ap);
  va_end(ap);
  const int status = n < 0 || n >= (int)sizeof command ? -1 : system(command);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

#endif
