// On-chip memory behind streams: several writers, several readers, one access of each kind a cycle.
//
//   Lower-numbered ports go first. A write has landed in the cycle it is taken. Each reader's words
//   come back in order through a buffer of its own, so that readers never hold up one another; a
//   read is taken only when its buffer has room.
module stream_ram #(
  parameter WIDTH = 8,
  parameter WORDS = 16,
  parameter WRITERS = 1,
  parameter READERS = 1,
  parameter ADDRESS_BITS = 18,
  parameter READ_AHEAD = 8  // words that a reader's buffer holds
) (
  input wire clk,
  input wire rst,
  input wire [WRITERS*ADDRESS_BITS-1:0] write_address,
  input wire [WRITERS*WIDTH-1:0] write_data,
  input wire [WRITERS-1:0] write_vld,
  output wire [WRITERS-1:0] write_rdy,
  input wire [READERS*ADDRESS_BITS-1:0] read_address,
  input wire [READERS-1:0] read_vld,
  output wire [READERS-1:0] read_rdy,
  output wire [READERS*WIDTH-1:0] word_data,
  output wire [READERS-1:0] word_vld,
  input wire [READERS-1:0] word_rdy
);
  localparam ROOM = $clog2(READ_AHEAD + 1);
  localparam INDEX = WORDS > 1 ? $clog2(WORDS) : 1;

  reg [WIDTH-1:0] memory [0:WORDS-1];
  reg [WIDTH-1:0] read_word;
  reg [READERS-1:0] read_for;  // whose word read_word is

  // --- Writing
  reg [ADDRESS_BITS-1:0] address_in;
  reg [WIDTH-1:0] data_in;
  reg [WRITERS-1:0] write_grant;
  integer w;
  always @* begin
    address_in = write_address[ADDRESS_BITS-1:0];
    data_in = write_data[WIDTH-1:0];
    write_grant = 0;
    for (w = WRITERS - 1; w >= 0; w = w - 1)
      if (write_vld[w]) begin
        address_in = write_address[w*ADDRESS_BITS +: ADDRESS_BITS];
        data_in = write_data[w*WIDTH +: WIDTH];
        write_grant = 1 << w;
      end
  end
  assign write_rdy = write_grant;
  always @(posedge clk) if (|write_vld) memory[address_in[INDEX-1:0]] <= data_in;

  // --- Reading
  wire [READERS-1:0] has_room;
  wire [READERS-1:0] asks = read_vld & has_room;
  reg [ADDRESS_BITS-1:0] address_out;
  reg [READERS-1:0] read_grant;
  integer r;
  always @* begin
    address_out = read_address[ADDRESS_BITS-1:0];
    read_grant = 0;
    for (r = READERS - 1; r >= 0; r = r - 1)
      if (asks[r]) begin
        address_out = read_address[r*ADDRESS_BITS +: ADDRESS_BITS];
        read_grant = 1 << r;
      end
  end
  assign read_rdy = read_grant;
  always @(posedge clk) begin
    if (|asks) read_word <= memory[address_out[INDEX-1:0]];
    read_for <= rst ? 0 : read_grant;
  end

  genvar g;
  generate
    for (g = 0; g < READERS; g = g + 1) begin : reader
      reg [ROOM-1:0] room;
      assign has_room[g] = room != 0;
      always @(posedge clk)
        if (rst) room <= READ_AHEAD;
        else room <= room - read_grant[g] + (word_vld[g] & word_rdy[g]);
      fifo #(.WIDTH(WIDTH), .DEPTH(READ_AHEAD)) buffer (
        .clk(clk), .rst(rst),
        .push_data(read_word), .push_vld(read_for[g]), .push_rdy(),
        .pop_data(word_data[g*WIDTH +: WIDTH]), .pop_vld(word_vld[g]), .pop_rdy(word_rdy[g])
      );
    end
  endgenerate
endmodule
