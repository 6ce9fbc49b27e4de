/*
 * The part of the ACPI namespace that is the same in every machine. What depends on the plan (PCI windows and
 * interrupt wiring, processors, UARTs, reserved ports) is in an SSDT that vmm/firmware/ssdt.cc generates.
 *
 * Sources: ACPI 6.4, sections 6 (device configuration) and 19 (ASL); Intel 82371SB (PIIX3) data sheet, PIRQRC
 * registers 60h-63h.
 */
DefinitionBlock ("", "DSDT", 2, "BULKHD", "BULKHEAD", 1)
{
    /* Soft off: SLP_TYP 0, as the PIIX4's SUS_TYP has it. */
    Name (\_S5, Package (4) { 0x00, 0x00, 0x00, 0x00 })

    Scope (\_SB)
    {
        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A03"))
            Name (_UID, Zero)
            Name (_BBN, Zero)

            Device (ISA)
            {
                Name (_ADR, 0x00010000)

                /* PIRQRC[A:D]: bit 7 disables, bits 3:0 name the IRQ. */
                OperationRegion (PIRQ, PCI_Config, 0x60, 0x04)
                Field (PIRQ, ByteAcc, NoLock, Preserve)
                {
                    PRQ0, 8,
                    PRQ1, 8,
                    PRQ2, 8,
                    PRQ3, 8
                }

                Device (RTC)
                {
                    Name (_HID, EisaId ("PNP0B00"))
                    Name (_CRS, ResourceTemplate ()
                    {
                        IO (Decode16, 0x0070, 0x0070, 0x01, 0x02)
                        IRQNoFlags () { 8 }
                    })
                }

                Device (KBD)
                {
                    Name (_HID, EisaId ("PNP0303"))
                    Name (_CRS, ResourceTemplate ()
                    {
                        IO (Decode16, 0x0060, 0x0060, 0x01, 0x01)
                        IO (Decode16, 0x0064, 0x0064, 0x01, 0x01)
                        IRQNoFlags () { 1 }
                    })
                }

                Device (MOU)
                {
                    Name (_HID, EisaId ("PNP0F13"))
                    Name (_CRS, ResourceTemplate ()
                    {
                        IRQNoFlags () { 12 }
                    })
                }
            }
        }

        /* The links from PIRQA-PIRQD to interrupts. */
        Name (LPRS, ResourceTemplate ()
        {
            Interrupt (ResourceConsumer, Level, ActiveHigh, Shared) { 5, 10, 11 }
        })

        Method (LSTA, 1, NotSerialized)
        {
            If (Arg0 & 0x80)
            {
                Return (0x09)
            }
            Return (0x0B)
        }

        Method (LCRS, 1, Serialized)
        {
            Local0 = ResourceTemplate ()
            {
                Interrupt (ResourceConsumer, Level, ActiveHigh, Shared) { 0 }
            }
            CreateDWordField (Local0, 0x05, LIRQ)
            If (!(Arg0 & 0x80))
            {
                LIRQ = Arg0 & 0x0F
            }
            Return (Local0)
        }

        /* The interrupt that a _SRS argument names. */
        Method (LSRS, 1, Serialized)
        {
            CreateDWordField (Arg0, 0x05, LIRQ)
            Return (LIRQ & 0x0F)
        }

        Device (LNKA)
        {
            Name (_HID, EisaId ("PNP0C0F"))
            Name (_UID, 0)
            Method (_STA) { Return (LSTA (\_SB.PCI0.ISA.PRQ0)) }
            Method (_PRS) { Return (LPRS) }
            Method (_CRS) { Return (LCRS (\_SB.PCI0.ISA.PRQ0)) }
            Method (_DIS) { \_SB.PCI0.ISA.PRQ0 |= 0x80 }
            Method (_SRS, 1) { \_SB.PCI0.ISA.PRQ0 = LSRS (Arg0) }
        }
        Device (LNKB)
        {
            Name (_HID, EisaId ("PNP0C0F"))
            Name (_UID, 1)
            Method (_STA) { Return (LSTA (\_SB.PCI0.ISA.PRQ1)) }
            Method (_PRS) { Return (LPRS) }
            Method (_CRS) { Return (LCRS (\_SB.PCI0.ISA.PRQ1)) }
            Method (_DIS) { \_SB.PCI0.ISA.PRQ1 |= 0x80 }
            Method (_SRS, 1) { \_SB.PCI0.ISA.PRQ1 = LSRS (Arg0) }
        }
        Device (LNKC)
        {
            Name (_HID, EisaId ("PNP0C0F"))
            Name (_UID, 2)
            Method (_STA) { Return (LSTA (\_SB.PCI0.ISA.PRQ2)) }
            Method (_PRS) { Return (LPRS) }
            Method (_CRS) { Return (LCRS (\_SB.PCI0.ISA.PRQ2)) }
            Method (_DIS) { \_SB.PCI0.ISA.PRQ2 |= 0x80 }
            Method (_SRS, 1) { \_SB.PCI0.ISA.PRQ2 = LSRS (Arg0) }
        }
        Device (LNKD)
        {
            Name (_HID, EisaId ("PNP0C0F"))
            Name (_UID, 3)
            Method (_STA) { Return (LSTA (\_SB.PCI0.ISA.PRQ3)) }
            Method (_PRS) { Return (LPRS) }
            Method (_CRS) { Return (LCRS (\_SB.PCI0.ISA.PRQ3)) }
            Method (_DIS) { \_SB.PCI0.ISA.PRQ3 |= 0x80 }
            Method (_SRS, 1) { \_SB.PCI0.ISA.PRQ3 = LSRS (Arg0) }
        }
    }
}
