// A forked child, for tests of what it finds of its parent's.
#ifndef STROBE_TESTS_CHILD_H
#define STROBE_TESTS_CHILD_H

#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

// Runs f in a forked child; true if it returned true within 20 s.
static bool child_does(bool (*f)(void *), void *arg) {
  pid_t pid = fork();
  if (pid == 0) {
    alarm(20);
    _exit(f(arg) ? 0 : 1);
  }
  int status;
  return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

#endif
