/*
 * An application that loads a key file and looks for a secret in its own memory.
 *
 *     secrets KEYFILE COMPLEMENT
 *
 * COMPLEMENT is the secret with every bit turned over, in hexadecimal: so it stands nowhere because of this program. How often the secret
 * itself stands in writable memory goes to stdout: before the key is loaded, while it is there, and when it is gone.
 */
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned char *complement;
static long length;

static int count(void)
{
    char line[512], rights[8];
    unsigned long first, last;
    FILE *maps = fopen("/proc/self/maps", "r");
    int found = 0;

    while (maps != NULL && fgets(line, sizeof(line), maps) != NULL) {
        const unsigned char *at;

        if (sscanf(line, "%lx-%lx %7s", &first, &last, rights) != 3 || strncmp(rights, "rw", 2) != 0)
            continue;
        for (at = (const unsigned char *)first; at + length <= (const unsigned char *)last; at++) {
            long i = 0;

            while (i < length && at[i] == (unsigned char)~complement[i])
                i++;
            found += i == length;
        }
    }
    if (maps == NULL)
        exit(2);
    fclose(maps);
    return found;
}

int main(int argc, char **argv)
{
    BIO *file;
    EVP_PKEY *key;

    if (argc != 3 || (complement = OPENSSL_hexstr2buf(argv[2], &length)) == NULL)
        return 2;
    printf("%d", count());
    file = BIO_new_file(argv[1], "r");
    key = file == NULL ? NULL : PEM_read_bio_PrivateKey(file, NULL, NULL, NULL);
    if (key == NULL) {
        ERR_print_errors_fp(stderr);
        return 1;
    }
    BIO_free(file);
    printf(" %d", count());
    EVP_PKEY_free(key);
    printf(" %d\n", count());
    OPENSSL_free(complement);
    return 0;
}
