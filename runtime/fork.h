// How often this process and its ancestors have forked since they began to use this library.
#ifndef STROBE_FORK_H
#define STROBE_FORK_H

void fork_watch(void);     // counts forks from now on; idempotent
int fork_generation(void); // forks between the process that called fork_watch and this one

#endif
