/*
 * The program that is measured: signs over and over through libcrypto's interface, or through PKCS#11 without it.
 *
 *     measure rate KEY WAY THREADS MS     signatures per second
 *     measure count KEY WAY COUNT         signs COUNT times; allocations of all and of hsmkey.so, and octets of heap gained
 *     measure load KEY COUNT              loads it COUNT times
 *     measure raw MODULE LABEL PIN THREADS MS             signatures per second of C_SignInit and C_Sign alone
 *     measure program MODULE LABEL PIN FILE SIGNATURE     what `openssl dgst -sha256 -sign` does, without a provider
 *     measure process PROGRAM ARGUMENT...                 seconds that another program takes, without those in which it waits for a processor
 *
 * KEY is a URI, the path of a key file, yardstick:PROVIDER:PUBLICKEY or engine:ENGINE:URI. WAY is `fresh` (a context for each signature), `reused`
 * (EVP_DigestSignInit_ex on the same one, without a key), `oneshot` (so, and EVP_DigestSign) or `prehashed` (EVP_PKEY_sign on one context). PIN is the path of a file.
 */
#define _GNU_SOURCE
#define OPENSSL_SUPPRESS_DEPRECATED
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <malloc.h>
#include <openssl/engine.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/provider.h>
#include <openssl/store.h>
#include <p11-kit/pkcs11.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);

static unsigned long allocations, ours;
static char *first, *last; /* of hsmkey.so's code */

static void *counted(void *memory, void *caller)
{
    __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
    if ((char *)caller >= first && (char *)caller < last)
        __atomic_add_fetch(&ours, 1, __ATOMIC_RELAXED);
    return memory;
}

/* The program's own functions go before the C library's, in every library. */
void *malloc(size_t size) { return counted(__libc_malloc(size), __builtin_return_address(0)); }
void *calloc(size_t count, size_t size) { return counted(__libc_calloc(count, size), __builtin_return_address(0)); }
void *realloc(void *old, size_t size) { return counted(__libc_realloc(old, size), __builtin_return_address(0)); }
void *aligned_alloc(size_t to, size_t size) { return counted(__libc_memalign(to, size), __builtin_return_address(0)); }
int posix_memalign(void **memory, size_t to, size_t size) { *memory = counted(__libc_memalign(to, size), __builtin_return_address(0)); return *memory == NULL ? 12 : 0; }

static void fail(const char *what)
{
    fprintf(stderr, "measure: %s\n", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static int find_code(struct dl_phdr_info *info, size_t size, void *unused)
{
    int i;

    (void)size; (void)unused;
    if (strstr(info->dlpi_name, "hsmkey.so") == NULL)
        return 0;
    for (i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_LOAD && info->dlpi_phdr[i].p_flags & PF_X) {
            first = (char *)info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
            last = first + info->dlpi_phdr[i].p_memsz;
        }
    return 1;
}

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

/* One thread's work until it is told to stop; what it is given is one for each thread. */
typedef struct { void (*once)(void *), *of; unsigned long made; pthread_t thread; } Worker;
static volatile int stop;
static pthread_barrier_t ready;

static void *work(void *argument)
{
    Worker *worker = argument;

    worker->once(worker->of); /* opens the session */
    pthread_barrier_wait(&ready);
    while (!stop) {
        worker->once(worker->of);
        worker->made++;
    }
    return NULL;
}

static void rate(void (*once)(void *), void *(*make)(void), int threads, int ms)
{
    Worker *workers = calloc(threads, sizeof(*workers));
    unsigned long made = 0;
    double begun;
    int i;

    pthread_barrier_init(&ready, NULL, threads + 1);
    for (i = 0; i < threads; i++) {
        workers[i] = (Worker){ .once = once, .of = make() };
        pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    }
    pthread_barrier_wait(&ready);
    begun = now();
    while (now() - begun < ms / 1000.0)
        nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
    stop = 1;
    for (i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        made += workers[i].made;
    }
    printf("%.1f\n", made / (now() - begun));
}

/* Through libcrypto. */

static EVP_PKEY *key;
static const unsigned char message[] = "a message of some length, as a handshake has";

typedef struct { EVP_MD_CTX *context; EVP_PKEY_CTX *prehashed; int begun; } Contexts;

static void *contexts(void)
{
    Contexts *contexts = calloc(1, sizeof(*contexts));

    contexts->context = EVP_MD_CTX_new();
    contexts->prehashed = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);
    if (EVP_DigestSignInit_ex(contexts->context, NULL, "SHA256", NULL, NULL, key, NULL) != 1)
        fail("EVP_DigestSignInit_ex");
    return contexts;
}

static void update_and_final(EVP_MD_CTX *context)
{
    unsigned char signature[1024];
    size_t length = sizeof(signature);

    if (EVP_DigestSignUpdate(context, message, sizeof(message)) != 1 || EVP_DigestSignFinal(context, signature, &length) != 1)
        fail("EVP_DigestSignFinal");
}

static void fresh(void *unused)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();

    (void)unused;
    if (EVP_DigestSignInit_ex(context, NULL, "SHA256", NULL, NULL, key, NULL) != 1)
        fail("EVP_DigestSignInit_ex");
    update_and_final(context);
    EVP_MD_CTX_free(context);
}

static void begun_anew(EVP_MD_CTX *context)
{
    if (EVP_DigestSignInit_ex(context, NULL, NULL, NULL, NULL, NULL, NULL) != 1)
        fail("EVP_DigestSignInit_ex on a used context");
}

static void reused(void *of)
{
    Contexts *contexts = of;

    begun_anew(contexts->context);
    update_and_final(contexts->context);
}

/* As libssl does. OpenSSL 3.0 to 3.3 copy the context in EVP_DigestSignFinal, and not here. */
static void oneshot(void *of)
{
    Contexts *contexts = of;
    unsigned char signature[1024];
    size_t length = sizeof(signature);

    begun_anew(contexts->context);
    if (EVP_DigestSign(contexts->context, signature, &length, message, sizeof(message)) != 1)
        fail("EVP_DigestSign");
}

static void prehashed(void *of)
{
    Contexts *contexts = of;
    unsigned char signature[1024], hash[32] = "the hash of a message";
    size_t length = sizeof(signature);

    if (!contexts->begun++ && (EVP_PKEY_sign_init(contexts->prehashed) != 1 || EVP_PKEY_CTX_set_signature_md(contexts->prehashed, EVP_sha256()) != 1))
        fail("EVP_PKEY_sign_init");
    if (EVP_PKEY_sign(contexts->prehashed, signature, &length, hash, sizeof(hash)) != 1)
        fail("EVP_PKEY_sign");
}

static EVP_PKEY *of_yardstick(char *provider, char *file)
{
    BIO *bio = BIO_new_file(file, "r");
    EVP_PKEY *public, *key = NULL;
    OSSL_PARAM *params = NULL;
    EVP_PKEY_CTX *context;

    if (OSSL_PROVIDER_load(NULL, "default") == NULL || OSSL_PROVIDER_load(NULL, provider) == NULL)
        fail(provider);
    public = PEM_read_bio_PUBKEY_ex(bio, NULL, NULL, NULL, NULL, "provider=default");
    context = EVP_PKEY_CTX_new_from_name(NULL, "RSA", "provider=yardstick");
    if (public == NULL || context == NULL || EVP_PKEY_todata(public, EVP_PKEY_PUBLIC_KEY, &params) != 1
        || EVP_PKEY_fromdata_init(context) != 1 || EVP_PKEY_fromdata(context, &key, EVP_PKEY_KEYPAIR, params) != 1)
        fail("the yardstick's key");
    return key;
}

static EVP_PKEY *of_engine(char *path, char *uri)
{
    ENGINE *engine;

    ENGINE_load_dynamic();
    engine = ENGINE_by_id("dynamic");
    if (engine == NULL || !ENGINE_ctrl_cmd_string(engine, "SO_PATH", path, 0) || !ENGINE_ctrl_cmd_string(engine, "LOAD", NULL, 0)
        || !ENGINE_ctrl_cmd_string(engine, "MODULE_PATH", getenv("PKCS11_MODULE_PATH"), 0) || !ENGINE_init(engine))
        fail(path);
    return ENGINE_load_private_key(engine, uri, NULL, NULL);
}

static EVP_PKEY *load(char *name)
{
    EVP_PKEY *key = NULL;
    char *rest = strchr(name, ':');
    char *second = rest == NULL ? NULL : strchr(rest + 1, ':');

    if (strncmp(name, "yardstick:", 10) == 0 || strncmp(name, "engine:", 7) == 0) {
        *second++ = 0;
        key = name[0] == 'y' ? of_yardstick(rest + 1, second) : of_engine(rest + 1, second);
    } else {
        OSSL_STORE_CTX *store = OSSL_STORE_open(name, NULL, NULL, NULL, NULL);
        OSSL_STORE_INFO *info = NULL;

        while (store != NULL && key == NULL && !OSSL_STORE_eof(store)) {
            info = OSSL_STORE_load(store);
            key = info == NULL ? NULL : OSSL_STORE_INFO_get1_PKEY(info);
            OSSL_STORE_INFO_free(info);
        }
        OSSL_STORE_close(store);
    }
    if (key == NULL)
        fail(name);
    return key;
}

static void count(void (*once)(void *), void *of, int times)
{
    unsigned long all, own;
    size_t heap;
    int i;

    for (i = 0; i < 10; i++)
        once(of);
    dl_iterate_phdr(find_code, NULL);
    all = allocations;
    own = ours;
    heap = mallinfo2().uordblks;
    for (i = 0; i < times; i++)
        once(of);
    printf("%.3f %.3f %ld\n", (double)(allocations - all) / times, (double)(ours - own) / times, (long)(mallinfo2().uordblks - heap));
}

/* Without it. */

static CK_FUNCTION_LIST *hsm;
static CK_SLOT_ID slot;
static CK_OBJECT_HANDLE object;
static const unsigned char prefix[] = { 0x30, 0x31, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 32 };

static void check(CK_RV rv, const char *function)
{
    if (rv != CKR_OK) {
        fprintf(stderr, "measure: %s returned 0x%lx\n", function, rv);
        exit(1);
    }
}
#define CHECK(function, arguments) check(hsm->function arguments, #function)

static void *session(void)
{
    CK_SESSION_HANDLE *session = calloc(1, sizeof(*session));

    CHECK(C_OpenSession, (slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, session));
    return session;
}

static CK_SESSION_HANDLE find(const char *module, char *label, const char *pin_file)
{
    void *library = dlopen(module, RTLD_NOW);
    CK_RV (*list)(CK_FUNCTION_LIST **) = library == NULL ? NULL : (CK_RV (*)(CK_FUNCTION_LIST **))dlsym(library, "C_GetFunctionList");
    CK_C_INITIALIZE_ARGS arguments = { .flags = CKF_OS_LOCKING_OK };
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    CK_ATTRIBUTE template[] = { { CKA_CLASS, &class, sizeof(class) }, { CKA_LABEL, label, strlen(label) } };
    unsigned char modulus[1024], exponent[16], id[256];
    CK_ATTRIBUTE attributes[] = { { CKA_MODULUS, modulus, sizeof(modulus) }, { CKA_PUBLIC_EXPONENT, exponent, sizeof(exponent) }, { CKA_ID, id, sizeof(id) } };
    CK_ULONG slots = 1, found = 0;
    CK_SLOT_ID all[64];
    CK_SESSION_HANDLE mine;
    char pin[256] = "";
    FILE *file = fopen(pin_file, "r");

    if (list == NULL || file == NULL || fgets(pin, sizeof(pin), file) == NULL)
        fail(module);
    fclose(file);
    list(&hsm);
    CHECK(C_Initialize, (&arguments));
    slots = 64;
    CHECK(C_GetSlotList, (CK_TRUE, all, &slots));
    slot = all[0];
    mine = *(CK_SESSION_HANDLE *)session();
    CHECK(C_Login, (mine, CKU_USER, (unsigned char *)pin, strlen(pin)));
    CHECK(C_FindObjectsInit, (mine, template, 2));
    CHECK(C_FindObjects, (mine, &object, 1, &found));
    CHECK(C_FindObjectsFinal, (mine));
    if (found != 1)
        fail(label);
    CHECK(C_GetAttributeValue, (mine, object, attributes, 3));
    return mine;
}

static void raw_signature(CK_SESSION_HANDLE session, unsigned char *info, unsigned char *signature, CK_ULONG *length)
{
    CK_MECHANISM mechanism = { CKM_RSA_PKCS, NULL, 0 };

    CHECK(C_SignInit, (session, &mechanism, object));
    CHECK(C_Sign, (session, info, sizeof(prefix) + 32, signature, length));
}

static void raw(void *of)
{
    unsigned char signature[1024], info[sizeof(prefix) + 32];
    CK_ULONG length = sizeof(signature);

    memcpy(info, prefix, sizeof(prefix));
    memset(info + sizeof(prefix), 7, 32);
    raw_signature(*(CK_SESSION_HANDLE *)of, info, signature, &length);
}

static void program(CK_SESSION_HANDLE session, const char *name, const char *output)
{
    static unsigned char data[1 << 16];
    unsigned char signature[1024], info[sizeof(prefix) + EVP_MAX_MD_SIZE];
    CK_ULONG length = sizeof(signature);
    FILE *file = fopen(name, "r");
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    size_t read;

    EVP_DigestInit_ex(hash, EVP_sha256(), NULL);
    while ((read = fread(data, 1, sizeof(data), file)) > 0)
        EVP_DigestUpdate(hash, data, read);
    memcpy(info, prefix, sizeof(prefix));
    EVP_DigestFinal_ex(hash, info + sizeof(prefix), NULL);
    raw_signature(session, info, signature, &length);
    file = fopen(output, "w");
    if (fwrite(signature, 1, length, file) != length || fclose(file) != 0)
        fail(output);
}

/* What else the machine has to do makes a process wait, and the more the more it calculates: Linux counts that (schedstats.rst). */
static void process(char **arguments)
{
    unsigned long long ran, waited;
    char name[64];
    double begun = now(), ended;
    siginfo_t info;
    FILE *file;
    pid_t child = fork();

    if (child == 0) {
        dup2(open("/dev/null", O_RDWR), 1);
        execvp(arguments[0], arguments);
        _exit(127);
    }
    /* Until it is waited for its entry is there. */
    if (child < 0 || waitid(P_PID, child, &info, WEXITED | WNOWAIT) != 0)
        fail(arguments[0]);
    ended = now();
    snprintf(name, sizeof(name), "/proc/%d/schedstat", (int)child);
    file = fopen(name, "r");
    if (file == NULL || fscanf(file, "%llu %llu", &ran, &waited) != 2)
        waited = 0;
    if (info.si_code != CLD_EXITED || info.si_status != 0)
        fail(arguments[0]);
    printf("%.6f\n", ended - begun - waited * 1e-9);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";

    if (strcmp(what, "raw") == 0 && argc == 7) {
        find(argv[2], argv[3], argv[4]);
        rate(raw, session, atoi(argv[5]), atoi(argv[6]));
    } else if (strcmp(what, "load") == 0 && argc == 4) {
        int i;

        for (i = atoi(argv[3]); i > 0; i--)
            EVP_PKEY_free(load(argv[2]));
    } else if (strcmp(what, "process") == 0 && argc > 2) {
        process(argv + 2);
    } else if (strcmp(what, "program") == 0 && argc == 7) {
        program(find(argv[2], argv[3], argv[4]), argv[5], argv[6]);
    } else if ((strcmp(what, "rate") == 0 && argc == 6) || (strcmp(what, "count") == 0 && argc == 5)) {
        static const struct { const char *name; void (*once)(void *); } ways[] = {
            { "fresh", fresh }, { "reused", reused }, { "oneshot", oneshot }, { "prehashed", prehashed },
        };
        void (*once)(void *) = NULL;
        size_t i;

        for (i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
            if (strcmp(argv[3], ways[i].name) == 0)
                once = ways[i].once;
        if (once == NULL)
            return 2;
        key = load(argv[2]);
        if (argc == 6)
            rate(once, contexts, atoi(argv[4]), atoi(argv[5]));
        else
            count(once, contexts(), atoi(argv[4]));
    } else {
        return 2;
    }
    return 0;
}
