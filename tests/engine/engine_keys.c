/*
 * An application of OpenSSL's engine interface, in the ways and in the orders that applications have.
 *
 *     engine_keys orders ID PUBLIC            loads a key and lets everything go in all orders; signs with what is left
 *     engine_keys leave ORDER ID PUBLIC       signs, and ends the process: freed, finished, cleanup or returned
 *     engine_keys threads COUNT ID PUBLIC     8 threads sign COUNT messages each with one key
 *     engine_keys forks COUNT ID PUBLIC       COUNT children sign with the key that the parent has loaded and used
 *     engine_keys files COUNT FILE PUBLIC     loads a key file and signs COUNT messages with it, loading it once more for each
 *     engine_keys file-threads COUNT FILE PUBLIC    8 threads sign COUNT messages each with a key file that nobody has used
 *     engine_keys pss ID PUBLIC               signs with PSS
 *     engine_keys pin PIN ID PUBLIC           the application's UI_METHOD gives the PIN
 *     engine_keys certificate ID FILE         the certificate is that of the file
 *     engine_keys rights PINFILE FILE PUBLIC  signs with a key file once the file of the PIN is gone: a server without its rights
 *     engine_keys id ID                       the engine of that name has that id
 *
 * Every signature is verified. Exit status 1 for a failure, 3 for an error queue that is not empty after a success.
 */
#include <openssl/conf.h>
#include <openssl/crypto.h>
#include <openssl/engine.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/ui.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static EVP_PKEY *public_key;
static EVP_PKEY *private_key;
static int count;

static void failed(const char *what)
{
    fprintf(stderr, "engine_keys: %s\n", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static void nothing_queued(const char *after)
{
    if (ERR_peek_error() == 0)
        return;
    fprintf(stderr, "engine_keys: errors are queued after %s, which succeeded\n", after);
    ERR_print_errors_fp(stderr);
    exit(3);
}

static void sign(EVP_PKEY *key, const char *message)
{
    unsigned char signature[1024];
    size_t length = sizeof(signature);
    EVP_MD_CTX *context = EVP_MD_CTX_new();

    if (EVP_DigestSignInit(context, NULL, EVP_sha256(), NULL, key) <= 0
        || EVP_DigestSignUpdate(context, message, strlen(message)) <= 0
        || EVP_DigestSignFinal(context, signature, &length) <= 0)
        failed("signing");
    nothing_queued("signing");
    EVP_MD_CTX_free(context);
    context = EVP_MD_CTX_new();
    if (EVP_DigestVerifyInit(context, NULL, EVP_sha256(), NULL, public_key) <= 0
        || EVP_DigestVerifyUpdate(context, message, strlen(message)) <= 0
        || EVP_DigestVerifyFinal(context, signature, length) != 1)
        failed("verifying");
    EVP_MD_CTX_free(context);
}

static void sign_pss(EVP_PKEY *key)
{
    unsigned char signature[1024];
    size_t length = sizeof(signature);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_PKEY_CTX *padding;

    if (EVP_DigestSignInit(context, &padding, EVP_sha256(), NULL, key) <= 0
        || EVP_PKEY_CTX_set_rsa_padding(padding, RSA_PKCS1_PSS_PADDING) <= 0
        || EVP_DigestSign(context, signature, &length, (const unsigned char *)"text", 4) <= 0)
        failed("signing with PSS");
    nothing_queued("signing with PSS");
    EVP_MD_CTX_free(context);
    context = EVP_MD_CTX_new();
    if (EVP_DigestVerifyInit(context, &padding, EVP_sha256(), NULL, public_key) <= 0
        || EVP_PKEY_CTX_set_rsa_padding(padding, RSA_PKCS1_PSS_PADDING) <= 0
        || EVP_DigestVerify(context, signature, length, (const unsigned char *)"text", 4) != 1)
        failed("verifying PSS");
    EVP_MD_CTX_free(context);
}

static ENGINE *engine(void)
{
    ENGINE *found = ENGINE_by_id("hsmkey");

    if (found == NULL)
        failed("ENGINE_by_id");
    return found;
}

static ENGINE *started(void)
{
    ENGINE *found = engine();

    if (ENGINE_init(found) != 1)
        failed("ENGINE_init");
    return found;
}

static EVP_PKEY *load(ENGINE *from, const char *id)
{
    EVP_PKEY *key = ENGINE_load_private_key(from, id, NULL, NULL);

    if (key == NULL)
        failed("ENGINE_load_private_key");
    nothing_queued("ENGINE_load_private_key");
    return key;
}

static EVP_PKEY *read_key(const char *path, int public)
{
    BIO *file = BIO_new_file(path, "r");
    EVP_PKEY *key = NULL;

    if (file != NULL)
        key = public ? PEM_read_bio_PUBKEY(file, NULL, NULL, NULL) : PEM_read_bio_PrivateKey(file, NULL, NULL, NULL);
    BIO_free(file);
    if (key == NULL)
        failed(path);
    nothing_queued("reading a key");
    return key;
}

/* What is let go first: the functional reference, the structural one, the key, or a second key. */
static void orders(const char *id)
{
    ENGINE *used;
    EVP_PKEY *key, *second;
    int order;

    for (order = 0; order < 6; order++) {
        used = started();
        key = load(used, id);
        switch (order) {
        case 0: /* The 3.x command does this. */
            ENGINE_finish(used);
            sign(key, "finished");
            ENGINE_free(used);
            break;
        case 1:
            ENGINE_finish(used);
            ENGINE_free(used);
            sign(key, "freed");
            break;
        case 2:
            ENGINE_free(used);
            sign(key, "freed before it was finished");
            ENGINE_finish(used);
            break;
        case 3:
            sign(key, "used");
            EVP_PKEY_free(key);
            key = load(used, id);
            ENGINE_finish(used);
            ENGINE_free(used);
            sign(key, "again");
            break;
        case 4:
            second = load(used, id);
            EVP_PKEY_free(key);
            key = second;
            sign(key, "second");
            ENGINE_remove(used);
            ENGINE_finish(used);
            ENGINE_free(used);
            sign(key, "removed");
            /* By its name in the engines directory, or as it was configured. */
            used = ENGINE_by_id("hsmkey");
            ERR_clear_error();
            if (used != NULL)
                ENGINE_free(used);
            else
                order = 5;
            break;
        case 5:
            EVP_PKEY_up_ref(key);
            EVP_PKEY_free(key);
            ENGINE_finish(used);
            ENGINE_free(used);
            sign(key, "held twice");
            break;
        }
        EVP_PKEY_free(key);
    }
}

static int leave(const char *order, const char *id)
{
    ENGINE *used = started();
    EVP_PKEY *key = load(used, id);

    sign(key, "the last");
    if (strcmp(order, "returned") == 0)
        return 0;
    if (strcmp(order, "finished") == 0) {
        ENGINE_finish(used);
        ENGINE_free(used);
        EVP_PKEY_free(key);
        EVP_PKEY_free(public_key);
        return 0;
    }
    if (strcmp(order, "freed") == 0) {
        EVP_PKEY_free(key);
        ENGINE_free(used);
        ENGINE_finish(used);
        ENGINE_cleanup();
        CONF_modules_unload(1);
        return 0;
    }
    ENGINE_finish(used);
    ENGINE_free(used);
    EVP_PKEY_free(key);
    EVP_PKEY_free(public_key);
    CONF_modules_unload(1);
    OPENSSL_cleanup();
    return 0;
}

static void *signer(void *number)
{
    char message[64];
    int i;

    for (i = 0; i < count; i++) {
        snprintf(message, sizeof(message), "%d of thread %ld", i, (long)(size_t)number);
        sign(private_key, message);
    }
    return NULL;
}

static void threads(void)
{
    pthread_t thread[8];
    size_t i;

    for (i = 0; i < 8; i++)
        if (pthread_create(&thread[i], NULL, signer, (void *)i) != 0)
            failed("pthread_create");
    for (i = 0; i < 8; i++)
        pthread_join(thread[i], NULL);
}

static void forks(void)
{
    int i, status;
    pid_t child;

    sign(private_key, "the parent before");
    for (i = 0; i < count; i++) {
        child = fork();
        if (child == 0) {
            sign(private_key, "the child");
            _exit(0);
        }
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
            failed("a child");
    }
    sign(private_key, "the parent after");
}

static const char *typed;
static int asked;

static int reader(UI *ui, UI_STRING *string)
{
    if (UI_get_string_type(string) == UIT_PROMPT) {
        asked++;
        return UI_set_result(ui, string, typed) >= 0;
    }
    return 1;
}

static int prompted(const char *pin, const char *id)
{
    UI_METHOD *method = UI_create_method("test");
    ENGINE *used = started();
    int i;

    typed = pin;
    UI_method_set_reader(method, reader);
    for (i = 0; i < 2; i++) {
        private_key = ENGINE_load_private_key(used, id, method, NULL);
        if (private_key == NULL)
            failed("ENGINE_load_private_key with a UI_METHOD");
        sign(private_key, "with the PIN that was typed");
        EVP_PKEY_free(private_key);
    }
    printf("asked %d\n", asked);
    asked = 0;
    if (ENGINE_ctrl_cmd(used, "SET_USER_INTERFACE", 0, method, NULL, 0) != 1
        || ENGINE_ctrl_cmd(used, "SET_CALLBACK_DATA", 0, &asked, NULL, 0) != 1
        || ENGINE_ctrl_cmd_string(used, "FORCE_LOGIN", NULL, 0) != 1)
        failed("controls");
    private_key = load(used, id);
    sign(private_key, "with the PIN of a control's UI_METHOD");
    EVP_PKEY_free(private_key);
    ENGINE_finish(used);
    ENGINE_free(used);
    UI_destroy_method(method);
    return 0;
}

static int certificate(const char *id, const char *path)
{
    struct {
        const char *id;
        X509 *certificate;
    } request = { id, NULL };
    BIO *file = BIO_new_file(path, "r");
    X509 *wanted = file == NULL ? NULL : PEM_read_bio_X509(file, NULL, NULL, NULL);
    ENGINE *used = started();

    if (ENGINE_ctrl_cmd(used, "LOAD_CERT_CTRL", 0, &request, NULL, 0) != 1 || request.certificate == NULL)
        failed("LOAD_CERT_CTRL");
    if (wanted == NULL || X509_cmp(wanted, request.certificate) != 0)
        failed("another certificate");
    nothing_queued("LOAD_CERT_CTRL");
    X509_free(request.certificate);
    X509_free(wanted);
    BIO_free(file);
    ENGINE_finish(used);
    ENGINE_free(used);
    return 0;
}

static int id(const char *name)
{
    ENGINE *used = ENGINE_by_id(name);

    if (used == NULL)
        failed("ENGINE_by_id");
    if (strcmp(ENGINE_get_id(used), name) != 0)
        failed("another id");
    nothing_queued("ENGINE_by_id");
    ENGINE_free(used);
    return 0;
}

static void files(const char *path)
{
    EVP_PKEY *key;
    int i;

    for (i = 0; i < count; i++) {
        sign(private_key, "the same key");
        key = read_key(path, 0);
        EVP_PKEY_free(key);
    }
}

int main(int argc, char **argv)
{
    ENGINE *used;

    /* As OPENSSL_CONF says: 1.1.1 does not look by itself. */
    if (OPENSSL_init_crypto(OPENSSL_INIT_LOAD_CONFIG, NULL) != 1)
        failed("OPENSSL_init_crypto");
    ERR_clear_error();
    if (argc == 3 && strcmp(argv[1], "id") == 0)
        return id(argv[2]);
    if (argc != 4 && argc != 5)
        return 2;
    if (strcmp(argv[1], "certificate") == 0)
        return certificate(argv[2], argv[3]);
    public_key = read_key(argv[argc - 1], 1);
    if (strcmp(argv[1], "pss") == 0) {
        used = started();
        private_key = load(used, argv[2]);
        ENGINE_finish(used);
        ENGINE_free(used);
        sign_pss(private_key);
        EVP_PKEY_free(private_key);
        EVP_PKEY_free(public_key);
        return 0;
    }
    if (strcmp(argv[1], "orders") == 0) {
        orders(argv[2]);
        EVP_PKEY_free(public_key);
        return 0;
    }
    if (argc != 5)
        return 2;
    if (strcmp(argv[1], "leave") == 0)
        return leave(argv[2], argv[3]);
    if (strcmp(argv[1], "pin") == 0)
        return prompted(argv[2], argv[3]);
    if (strcmp(argv[1], "rights") == 0) {
        if (unlink(argv[2]) != 0)
            failed(argv[2]);
        count = 1;
        private_key = read_key(argv[3], 0);
        files(argv[3]);
        EVP_PKEY_free(private_key);
        EVP_PKEY_free(public_key);
        return 0;
    }
    count = atoi(argv[2]);
    if (strncmp(argv[1], "file", 4) == 0) {
        private_key = read_key(argv[3], 0);
    } else {
        used = started();
        private_key = load(used, argv[3]);
        ENGINE_finish(used);
        ENGINE_free(used);
    }
    if (strcmp(argv[1], "threads") == 0 || strcmp(argv[1], "file-threads") == 0)
        threads();
    else if (strcmp(argv[1], "forks") == 0)
        forks();
    else
        files(argv[3]);
    EVP_PKEY_free(private_key);
    EVP_PKEY_free(public_key);
    return 0;
}
