/* In libunwind's place (cross/link): what std's backtraces ask. There are no tables to walk a stack with. */
typedef struct context context;

int _Unwind_Backtrace(void *each, void *argument) {
    (void)each, (void)argument;
    return 5; /* _URC_END_OF_STACK */
}

unsigned long _Unwind_GetIP(context *at) {
    (void)at;
    return 0;
}

unsigned long _Unwind_GetIPInfo(context *at, int *before) {
    (void)at;
    *before = 0;
    return 0;
}

unsigned long _Unwind_GetCFA(context *at) {
    (void)at;
    return 0;
}

void *_Unwind_FindEnclosingFunction(void *pc) {
    (void)pc;
    return 0;
}

#ifdef __arm__
/* What std defines the above with on ARM, and what the compiler names in tables that are left out. */
int _Unwind_VRS_Get(context *at, int class, unsigned number, int representation, void *value) {
    (void)at, (void)class, (void)number, (void)representation;
    *(unsigned *)value = 0;
    return 0;
}

void __aeabi_unwind_cpp_pr0(void) {}
void __aeabi_unwind_cpp_pr1(void) {}
#endif
