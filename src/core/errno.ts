/** Linux error numbers (asm-generic/errno.h) that godwit distinguishes. `errnoName` (linux/libc.ts) names any. */
export const EPERM = 1
export const ENOENT = 2
export const ESRCH = 3
export const EINTR = 4
export const EIO = 5
export const ENXIO = 6
export const EBADF = 9
/** The same number as EWOULDBLOCK. */
export const EAGAIN = 11
export const EACCES = 13
export const EBUSY = 16
export const EEXIST = 17
export const ENODEV = 19
export const EINVAL = 22
export const EMSGSIZE = 90
export const EOPNOTSUPP = 95
export const EADDRNOTAVAIL = 99
export const ENETDOWN = 100
export const ENETUNREACH = 101
export const ENOBUFS = 105
export const ETIMEDOUT = 110
export const EHOSTUNREACH = 113
export const EINPROGRESS = 115
