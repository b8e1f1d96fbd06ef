/*
 * An application under load, through libcrypto's interface.
 *
 *     stress threads shared|own THREADS COUNT KEY PUBLIC    THREADS threads sign COUNT messages each, with one key object or one each
 *     stress forks THREADS FORKS COUNT KEY PUBLIC           while THREADS threads sign, FORKS children are made that sign COUNT messages
 *     stress forked CHILDREN COUNT KEY PUBLIC               signs nothing, then CHILDREN children sign COUNT messages
 *     stress family KEY PUBLIC                              a child before the key is read, one before it is used, one after, and a child of that
 *     stress every MILLISECONDS COUNT KEY PUBLIC            signs COUNT messages, one every so often
 *     stress exit thread|busy|cleanup KEY PUBLIC            signs, and ends in one of the ways that applications have
 *     stress many COUNT KEY PUBLIC                          signs COUNT messages, and says by how many pages it has grown over the second half
 *     stress wrong THREADS CHILDREN KEY PUBLIC              THREADS threads and CHILDREN children sign at once
 *     stress cycles COUNT KEY PUBLIC                        COUNT times: a library context, the provider, a signature, all let go
 *
 * Every signature is verified. On stdout: the signatures that were made, those that failed and those that are wrong, as
 * "signed N failed N wrong N"; of each failure the error queue goes to stderr. Exit status 1 where any failed.
 */
#include <openssl/conf.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/provider.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static atomic_int signed_count, failed_count, wrong_count;
static atomic_int stop;
static EVP_PKEY *public_key;
static const char *key_file;

static void pause_for(long milliseconds)
{
    struct timespec pause = { milliseconds / 1000, milliseconds % 1000 * 1000000 };

    nanosleep(&pause, NULL);
}

static EVP_PKEY *read_key(OSSL_LIB_CTX *libctx, const char *path, int public)
{
    BIO *file = BIO_new_file(path, "r");
    EVP_PKEY *key = NULL;

    if (file != NULL)
        key = public ? PEM_read_bio_PUBKEY_ex(file, NULL, NULL, NULL, libctx, NULL)
                     : PEM_read_bio_PrivateKey_ex(file, NULL, NULL, NULL, libctx, NULL);
    BIO_free(file);
    if (key == NULL) {
        ERR_print_errors_fp(stderr);
        exit(2);
    }
    return key;
}

/* 1 for a signature, 0 for a failure that was printed. */
static int sign(OSSL_LIB_CTX *libctx, EVP_PKEY *key, const char *message)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    unsigned char signature[1024];
    size_t length = sizeof(signature);
    int ok = EVP_DigestSignInit_ex(context, NULL, "SHA256", libctx, NULL, key, NULL) > 0
             && EVP_DigestSign(context, signature, &length, (const unsigned char *)message, strlen(message)) > 0;

    EVP_MD_CTX_free(context);
    if (!ok) {
        atomic_fetch_add(&failed_count, 1);
        ERR_print_errors_fp(stderr);
        return 0;
    }
    atomic_fetch_add(&signed_count, 1);
    context = EVP_MD_CTX_new();
    if (EVP_DigestVerifyInit_ex(context, NULL, "SHA256", NULL, NULL, public_key, NULL) <= 0
        || EVP_DigestVerify(context, signature, length, (const unsigned char *)message, strlen(message)) != 1)
        atomic_fetch_add(&wrong_count, 1);
    EVP_MD_CTX_free(context);
    return 1;
}

struct work {
    pthread_t thread;
    EVP_PKEY *key;
    int number, count;
};

static void *run(void *argument)
{
    struct work *work = argument;
    char message[64];
    int i;

    for (i = 0; work->count == 0 ? !atomic_load(&stop) : i < work->count; i++) {
        snprintf(message, sizeof(message), "%d/%d", work->number, i);
        sign(NULL, work->key, message);
    }
    return NULL;
}

static struct work *start(int threads, int count, EVP_PKEY *shared)
{
    struct work *all = calloc(threads, sizeof(*all));
    int i;

    for (i = 0; i < threads; i++) {
        all[i].key = shared != NULL ? shared : read_key(NULL, key_file, 0);
        all[i].number = i;
        all[i].count = count;
    }
    for (i = 0; i < threads; i++)
        if (pthread_create(&all[i].thread, NULL, run, &all[i]) != 0)
            exit(2);
    return all;
}

static void finish(struct work *all, int threads, EVP_PKEY *shared)
{
    int i;

    for (i = 0; i < threads; i++) {
        pthread_join(all[i].thread, NULL);
        if (shared == NULL)
            EVP_PKEY_free(all[i].key);
    }
    free(all);
}

/* A child that signs, and ends as an application does. */
static pid_t child(EVP_PKEY *key, int count)
{
    pid_t pid = fork();
    char message[64];
    int i, ok = 1;

    if (pid != 0)
        return pid;
    for (i = 0; i < count; i++) {
        snprintf(message, sizeof(message), "%d:%d", (int)getpid(), i);
        ok &= sign(NULL, key, message);
    }
    exit(ok && atomic_load(&wrong_count) == 0 ? 0 : 1);
}

/* Waits for a child, but not for ever: one that hangs counts as failed. */
static void reap(pid_t pid, int count)
{
    int status = 0, waited;

    for (waited = 0; waited < 30000; waited += 5) {
        if (waitpid(pid, &status, WNOHANG) == pid) {
            if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
                atomic_fetch_add(&signed_count, count);
            } else {
                fprintf(stderr, "child %d: status %x\n", (int)pid, status);
                atomic_fetch_add(&failed_count, 1);
            }
            return;
        }
        pause_for(5);
    }
    fprintf(stderr, "child %d hangs\n", (int)pid);
    atomic_fetch_add(&failed_count, 1);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
}

static void *leave(void *unused)
{
    (void)unused;
    exit(atomic_load(&failed_count));
}

static long resident_pages(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    long total = 0, resident = 0;

    if (file == NULL || fscanf(file, "%ld %ld", &total, &resident) != 2)
        resident = 0;
    if (file != NULL)
        fclose(file);
    return resident;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    int first = 2, i;
    EVP_PKEY *key;

    if (argc < 4)
        return 2;
    /* With threads that go on, OpenSSL's own cleanup at exit crashes, with software keys too: leave it out to see the rest. */
    if (strcmp(argv[first], "busy") == 0)
        OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, NULL);
    key_file = argv[argc - 2];
    public_key = read_key(NULL, argv[argc - 1], 1);
    if (strcmp(mode, "threads") == 0) {
        int threads = atoi(argv[first + 1]), count = atoi(argv[first + 2]);

        key = strcmp(argv[first], "shared") == 0 ? read_key(NULL, key_file, 0) : NULL;
        finish(start(threads, count, key), threads, key);
        EVP_PKEY_free(key);
    } else if (strcmp(mode, "forks") == 0) {
        int threads = atoi(argv[first]), forks = atoi(argv[first + 1]), count = atoi(argv[first + 2]);
        pid_t *pids = calloc(forks, sizeof(*pids));
        struct work *all;

        key = read_key(NULL, key_file, 0);
        all = start(threads, 0, key);
        for (i = 0; i < forks; i++) {
            pause_for(20);
            pids[i] = child(key, count);
        }
        for (i = 0; i < forks; i++)
            reap(pids[i], count);
        atomic_store(&stop, 1);
        finish(all, threads, key);
        free(pids);
        EVP_PKEY_free(key);
    } else if (strcmp(mode, "forked") == 0) {
        int children = atoi(argv[first]), count = atoi(argv[first + 1]);
        pid_t *pids = calloc(children, sizeof(*pids));

        key = read_key(NULL, key_file, 0);
        for (i = 0; i < children; i++)
            pids[i] = child(key, count);
        for (i = 0; i < children; i++)
            reap(pids[i], count);
        free(pids);
        EVP_PKEY_free(key);
    } else if (strcmp(mode, "family") == 0) {
        pid_t pid = fork();

        if (pid == 0) {
            key = read_key(NULL, key_file, 0);
            exit(sign(NULL, key, "before the key is read") ? 0 : 1);
        }
        reap(pid, 1);
        key = read_key(NULL, key_file, 0);
        reap(child(key, 1), 1);
        sign(NULL, key, "the parent");
        if ((pid = fork()) == 0) {
            /* Its own child signs before it, and after it. */
            pid_t first = child(key, 1), second;
            int status[2] = { 1, 1 }, ok;

            waitpid(first, &status[0], 0);
            ok = sign(NULL, key, "the child");
            second = child(key, 1);
            waitpid(second, &status[1], 0);
            exit(ok && status[0] == 0 && status[1] == 0 && atomic_load(&wrong_count) == 0 ? 0 : 1);
        }
        reap(pid, 3);
        sign(NULL, key, "the parent");
        EVP_PKEY_free(key);
    } else if (strcmp(mode, "every") == 0) {
        long pause = atol(argv[first]);
        int count = atoi(argv[first + 1]);

        key = read_key(NULL, key_file, 0);
        for (i = 0; i < count; i++) {
            sign(NULL, key, "now and then");
            pause_for(pause);
        }
        EVP_PKEY_free(key);
    } else if (strcmp(mode, "exit") == 0) {
        key = read_key(NULL, key_file, 0);
        sign(NULL, key, "before the end");
        if (strcmp(argv[first], "thread") == 0) {
            pthread_t thread;

            if (pthread_create(&thread, NULL, leave, NULL) != 0)
                return 2;
            pthread_join(thread, NULL);
        } else if (strcmp(argv[first], "busy") == 0) {
            start(4, 0, key);
            pause_for(300);
            exit(atomic_load(&failed_count) + atomic_load(&wrong_count));
        }
        EVP_PKEY_free(key);
        EVP_PKEY_free(public_key);
        OPENSSL_cleanup();
        return 0;
    } else if (strcmp(mode, "many") == 0) {
        int count = atoi(argv[first]);
        long settled = 0;

        key = read_key(NULL, key_file, 0);
        for (i = 0; i < count; i++) {
            sign(NULL, key, "one of many");
            if (i == count / 2)
                settled = resident_pages();
        }
        printf("grown %ld\n", resident_pages() - settled);
        EVP_PKEY_free(key);
    } else if (strcmp(mode, "wrong") == 0) {
        int threads = atoi(argv[first]), children = atoi(argv[first + 1]);
        pid_t *pids = calloc(children, sizeof(*pids));
        struct work *all;

        key = read_key(NULL, key_file, 0);
        for (i = 0; i < children; i++)
            pids[i] = child(key, 1);
        all = start(threads, 1, key);
        finish(all, threads, key);
        for (i = 0; i < children; i++)
            reap(pids[i], 1);
        free(pids);
        EVP_PKEY_free(key);
    } else if (strcmp(mode, "cycles") == 0) {
        int count = atoi(argv[first]);
        long settled = 0;

        for (i = 0; i < count; i++) {
            OSSL_LIB_CTX *libctx = OSSL_LIB_CTX_new();

            if (libctx == NULL || !OSSL_LIB_CTX_load_config(libctx, getenv("OPENSSL_CONF")))
                return 2;
            key = read_key(libctx, key_file, 0);
            sign(libctx, key, "cycle");
            EVP_PKEY_free(key);
            OSSL_LIB_CTX_free(libctx);
            if (i == count / 2)
                settled = resident_pages();
        }
        printf("grown %ld\n", resident_pages() - settled);
    } else {
        return 2;
    }
    EVP_PKEY_free(public_key);
    printf("signed %d failed %d wrong %d\n", atomic_load(&signed_count), atomic_load(&failed_count),
           atomic_load(&wrong_count));
    return atomic_load(&failed_count) != 0 || atomic_load(&wrong_count) != 0;
}
