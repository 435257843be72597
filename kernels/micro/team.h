/* The team of OpenMP threads that each calling thread has. Included by team.pyx.
 *
 * If an OpenMP runtime cannot start a thread, the runtime ends the process. So before a team grows, plain threads are started and ended to
 * find out how many threads can exist. */
#ifndef MOBILESAM_TEAM_H
#define MOBILESAM_TEAM_H
#include "platform.h"
#ifdef _OPENMP
#include <omp.h>
enum { has_openmp = 1 };
#ifdef __clang__
enum { llvm_runtime = 1 };
#else
enum { llvm_runtime = 0 };
#endif
static void start_openmp(void) { omp_get_max_threads(); } /* the runtime reads its environment variables by now */
static int end_openmp_team(void) { return !omp_in_parallel() && !omp_pause_resource_all(omp_pause_soft); }
#else
enum { has_openmp = 0, llvm_runtime = 0 };
static void start_openmp(void) {}
static int end_openmp_team(void) { return 1; }
#endif

static _Thread_local int team_threads = 1; /* the calling thread itself and the threads that OpenMP keeps for it */
static _Thread_local int team_lost = 0; /* whether the team has lost its threads, because it did not end before a fork */

enum { CALLS_TO_WAIT = 100 }; /* calls without a new try after a refusal, because a try takes up to a millisecond */
static _Thread_local int calls_to_wait = 0;

/* Returns the number of threads, at most `wanted`, that a kernel call of this thread can run on. Twice as many threads must be startable,
 * because the kernel's scratch memory and other threads need the same resources before the team starts. */
static int usable_threads(int wanted)
{
    if (team_lost || wanted == 1)
        return 1;
    if (wanted <= team_threads)
        return wanted;
    return calls_to_wait > 0 ? team_threads : team_threads + startable_threads(2 * (wanted - team_threads)) / 2;
}

/* Returns `usable_threads(wanted)`. The caller starts a team of this size next. */
static int prepare_team(int wanted)
{
    int threads = usable_threads(wanted);
    if (calls_to_wait > 0)
        calls_to_wait--;
    else if (threads < wanted)
        calls_to_wait = CALLS_TO_WAIT;
    if (threads > 1)
        team_threads = threads; /* a smaller team than before counts too, because OpenMP ends the surplus threads */
    return threads;
}

/* Called before a fork. Only the thread that forks exists in the child, so a team would be without threads there. The team may also be
 * another library's that uses the same runtime. The parent's next kernel call starts a new team. */
static void end_team(void)
{
    if (end_openmp_team())
        team_threads = 1;
    calls_to_wait = 0;
}

/* Called in a forked child. */
static void forget_team(void) { team_lost = team_lost || team_threads > 1; }

#endif
