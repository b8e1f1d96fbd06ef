/*
 * An application that lists a URI as OSSL_STORE_open(3) says: until the end, with a look for errors after each object.
 *
 *     lister URI
 *
 * It prints how many objects there were, how many loads failed, and how many errors are on the queue at the end.
 */
#include <stdio.h>

#include <openssl/err.h>
#include <openssl/store.h>

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    OSSL_STORE_CTX *store = OSSL_STORE_open(argv[1], NULL, NULL, NULL, NULL);
    if (store == NULL)
        return 3;
    int objects = 0, failures = 0, errors = 0;
    for (int loads = 0; !OSSL_STORE_eof(store); loads++) {
        /* The end has to come. */
        if (loads == 1000)
            return 4;
        OSSL_STORE_INFO *info = OSSL_STORE_load(store);
        if (info != NULL)
            objects++;
        else if (OSSL_STORE_error(store) && !OSSL_STORE_eof(store))
            failures++;
        OSSL_STORE_INFO_free(info);
    }
    OSSL_STORE_close(store);
    while (ERR_get_error() != 0)
        errors++;
    printf("%d objects, %d failures, %d errors\n", objects, failures, errors);
    return 0;
}
