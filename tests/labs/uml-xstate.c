/*
 * ptrace(2) for User-mode Linux 6.1 on a CPU with AMX, by LD_PRELOAD.
 *
 * That kernel sets the extended registers of its processes (XSAVE, about 11 KiB where there is
 * AMX) from a buffer of 2696 bytes.  The host takes the whole area or nothing, with EFAULT, and
 * so the first process cannot be started.  Here what is missing is filled up with zeroes, and
 * the header tells that only x87 to PKRU, which the buffer has, are meant.  In other respects
 * it does as glibc's ptrace does.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { XSTATE = 0x202, HEADER = 512, X87_TO_PKRU = 0x2ff };

static __thread char area[65536] __attribute__((aligned(64)));
static size_t whole; /* size of the host's area, once it is known */

static long set_extended(long pid, void *addr, const struct iovec *given)
{
	struct iovec all = { area, sizeof area };

	if (!whole) {
		if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, addr, &all) < 0)
			return -1;
		whole = all.iov_len;
	}
	if (given->iov_len >= whole)
		return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, addr, given);
	memcpy(area, given->iov_base, given->iov_len);
	memset(area + given->iov_len, 0, whole - given->iov_len);
	*(unsigned long *)(area + HEADER) &= X87_TO_PKRU;
	all.iov_len = whole;
	return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, addr, &all);
}

long ptrace(enum __ptrace_request request, ...)
{
	va_list rest;
	va_start(rest, request);
	long pid = va_arg(rest, int);
	void *addr = va_arg(rest, void *), *data = va_arg(rest, void *);
	va_end(rest);

	if (request == PTRACE_SETREGSET && (unsigned long)addr == XSTATE)
		return set_extended(pid, addr, data);
	if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
		long word;
		if (syscall(SYS_ptrace, request, pid, addr, &word) < 0)
			return -1;
		errno = 0;
		return word;
	}
	return syscall(SYS_ptrace, request, pid, addr, data);
}
