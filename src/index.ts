/** The library's public face. */
export { GodwitError } from './core/errors.ts'
