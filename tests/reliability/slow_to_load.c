/*
 * A PKCS#11 module in front of the one that it is linked with. It takes its time to be loaded, and is of no use before that is over.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <time.h>

#define CKR_GENERAL_ERROR 5UL

static atomic_int loaded;

__attribute__((constructor)) static void load(void)
{
    struct timespec pause = { 0, 250 * 1000000 };

    nanosleep(&pause, NULL);
    atomic_store(&loaded, 1);
}

unsigned long C_GetFunctionList(void **functions)
{
    void *symbol = dlsym(RTLD_NEXT, "C_GetFunctionList");
    unsigned long (*next)(void **) = (unsigned long (*)(void **))symbol;

    return atomic_load(&loaded) && next != NULL ? next(functions) : CKR_GENERAL_ERROR;
}
