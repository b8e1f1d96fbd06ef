/* vset_error of the core takes a va_list, which only C can make. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* OSSL_FUNC_core_vset_error_fn, provider-base(7): the handle, a reason, a printf format and its arguments. */
typedef void vset_error_fn(const void *handle, uint32_t reason, const char *format, va_list arguments);

static void call(vset_error_fn *vset_error, const void *handle, uint32_t reason, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vset_error(handle, reason, format, arguments);
    va_end(arguments);
}

/* Puts a reason with a text, taken as it is and never as a format, on the application's error queue. */
void hsmkey_raise(vset_error_fn *vset_error, const void *handle, uint32_t reason, const char *text)
{
    call(vset_error, handle, reason, text[0] == '\0' ? NULL : "%s", text);
}
