// How often this process and its ancestors have forked since they began to use this library.
#ifndef STROBE_FORK_H
#define STROBE_FORK_H

#include "../gen/error.h"

int fork_watch(struct error *err); // counts forks from now on; idempotent. STROBE_NO_MEMORY
int fork_generation(void);         // forks between the process that called fork_watch and this one
// A lock of the process that a fork waits for: what is changed under it is whole in the child too. For moments.
void fork_lock(void);
void fork_unlock(void);

#endif
