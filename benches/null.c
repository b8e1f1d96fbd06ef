/*
 * A PKCS#11 module with nothing behind it: one slot, one RSA key of 2048 bits, signatures of 0x5a made at once. What is counted in a
 * program that uses it (instructions, allocations) is the program's.
 */
#include <p11-kit/pkcs11.h>
#include <string.h>

static CK_RV initialize(void *arguments) { (void)arguments; return CKR_OK; }

static CK_RV slot_list(unsigned char present, CK_SLOT_ID *slots, CK_ULONG *count)
{
    (void)present;
    if (slots != NULL)
        slots[0] = 1;
    *count = 1;
    return CKR_OK;
}

static CK_RV token_info(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
    (void)slot;
    memset(info, ' ', sizeof(*info));
    memcpy(info->label, "test", 4); /* as the tokens of the tests are called */
    info->flags = CKF_TOKEN_INITIALIZED;
    return CKR_OK;
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify, CK_SESSION_HANDLE *session)
{
    static CK_ULONG last;

    (void)slot; (void)flags; (void)application; (void)notify;
    *session = __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
    return CKR_OK;
}

static CK_RV close_session(CK_SESSION_HANDLE session) { (void)session; return CKR_OK; }
static CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE user, unsigned char *pin, CK_ULONG length) { (void)session; (void)user; (void)pin; (void)length; return CKR_OK; }
static CK_RV find_init(CK_SESSION_HANDLE session, CK_ATTRIBUTE *template, CK_ULONG count) { (void)session; (void)template; (void)count; return CKR_OK; }
static CK_RV find(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE *objects, CK_ULONG room, CK_ULONG *count) { (void)session; (void)room; objects[0] = 7; *count = 1; return CKR_OK; }
static CK_RV find_final(CK_SESSION_HANDLE session) { (void)session; return CKR_OK; }
static CK_RV sign_init(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key) { (void)session; (void)mechanism; (void)key; return CKR_OK; }

static CK_RV sign(CK_SESSION_HANDLE session, unsigned char *data, CK_ULONG length, unsigned char *signature, CK_ULONG *room)
{
    (void)session; (void)data; (void)length;
    if (*room < 256)
        return CKR_BUFFER_TOO_SMALL;
    memset(signature, 0x5a, 256);
    *room = 256;
    return CKR_OK;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list)
{
    static CK_FUNCTION_LIST functions = {
        .version = { 2, 40 }, .C_Initialize = initialize, .C_GetSlotList = slot_list, .C_GetTokenInfo = token_info,
        .C_OpenSession = open_session, .C_CloseSession = close_session, .C_Login = login, .C_FindObjectsInit = find_init,
        .C_FindObjects = find, .C_FindObjectsFinal = find_final, .C_SignInit = sign_init, .C_Sign = sign,
    };

    *list = &functions;
    return CKR_OK;
}
