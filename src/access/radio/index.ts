/** The connection controller and its radios. */
export * from './machine.ts'
export * from './radio.ts'
export { SupplicantRadio } from './supplicant.ts'
