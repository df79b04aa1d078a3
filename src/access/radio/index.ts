/** The connection controller and its radios. */
export { openRadio } from './auto.ts'
export * from './machine.ts'
export { ModemManagerRadio } from './modem-manager.ts'
export { NetworkManagerRadio } from './network-manager.ts'
export * from './radio.ts'
export { SupplicantRadio } from './supplicant.ts'
