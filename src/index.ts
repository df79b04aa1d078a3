/** The library's public face. */
export { type ErrorDetails, type ErrorKind, GodwitError } from './core/errors.ts'
